// Asks the service, with a key that lives in this module alone: never in an address, a cookie or a storage.

let key = "";

/** An answer that is none; status 0 is no answer at all. */
export class Refused extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Send this key from now on; an empty one is none. @param {string} text */
export function useKey(text) {
  key = text.trim();
}

/**
 * The JSON of an answer.
 * @param {string} path relative to the service
 * @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
export async function ask(path, options = {}) {
  let answer;
  try {
    const headers = new Headers(options.headers);
    if (key) headers.set("X-API-Key", key);
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    const unsendable = error instanceof TypeError && /[^\x20-\x7e]/.test(key);
    throw new Refused(0, unsendable ? "The key has characters that no key has." : "The service does not answer.");
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, inWords(answer, body));
  return body;
}

/** @param {Response} answer @param {any} body */
function inWords(answer, body) {
  if (answer.status === 401) {
    return key ? "The service does not know this key." : "This service asks for an API key: enter one at the top.";
  }
  if (answer.status === 403 && key) return "This key may ask, but not change what serves: that takes an admin key.";
  const wait = answer.headers.get("Retry-After");
  const said = body?.error?.message ?? `The service answered with status ${answer.status}.`;
  return wait ? `${said} Try again in ${wait} s.` : said;
}
