// The page: its state, when it asks the service, and where each card goes. One state, drawn again on every change.

import { html, nothing, render } from "./vendor/lit-html.js";
import { Refused, ask, useKey } from "./api.js";
import { onThemeChange } from "./charts.js";
import { classifyCard } from "./classify.js";
import { closeRollback, openRollback, rollbackDialog } from "./dialog.js";
import { drawDrift, driftCard, noted } from "./drift.js";
import { drawServing, servingCard } from "./serving.js";
import { drawVersions, versionsCard } from "./versions.js";

const LOOK_MS = 5000;
const HISTORY_LOOKS = 6; // so many looks between two readings of the history, unless the version changed

const state = {
  /** @type {any} */ model: null,
  /** @type {any} */ history: null,
  /** @type {any[]} */ looks: [],
  /** @type {string | null} */ modelTrouble: null,
  /** @type {string | null} */ historyTrouble: null,
  /** @type {string | null} */ driftTrouble: null,
  /** @type {any} */ classify: { image: null, answer: null, busy: false, trouble: null },
  /** @type {{version: number, trouble: string | null} | null} */ rollback: null,
  changing: false,
  dragging: false,
  locked: false, // nothing is answered without a key
  keyed: false, // a key was asked for, at least for changes
};
let drawing = false;
let driftIsThere = true;
let looked = 0;

/** @param {Partial<typeof state>} change */
function set(change) {
  Object.assign(state, change);
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(draw);
}

function draw() {
  drawing = false;
  render(page(), /** @type {HTMLElement} */ (document.getElementById("page")));
  drawServing(state);
  drawVersions(state);
  drawDrift(state);
}

function page() {
  const { model, locked } = state;
  return html`<header class="top">
      <h1><img src="ui/icon.svg" alt="" width="28" height="28" /> adaptsvc</h1>
      <p class="muted">${model ? html`version ${model.model_version} of ${model.model} tells ${model.classes.length} classes apart` : nothing}</p>
      <details class="key" ?open=${locked}><summary>API key</summary>${keyField()}</details>
    </header>
    <main>
      <div class="columns">${classifyCard(state, classify)} ${servingCard(state)}</div>
      ${versionsCard(state, { activate: askRollback, pin })} ${driftCard(state)}
    </main>
    ${rollbackDialog(state, { confirm: activate, cancel: () => set({ rollback: null }) }, keyField)}`;
}

function keyField() {
  const send = (/** @type {any} */ event) => {
    event.preventDefault();
    useKey(String(new FormData(event.target).get("key") ?? ""));
    driftIsThere = true;
    look(true);
  };
  return html`<form class="keys" @submit=${send}>
    <input type="password" name="key" autocomplete="off" spellcheck="false" placeholder="key" aria-label="API key" />
    <button type="submit" class="secondary">Use</button>
    <small class="muted">Kept in this page's memory alone; closing the page forgets it.</small>
  </form>`;
}

/** Ask what serves, and what there is to say of it. @param {boolean} [everything] */
async function look(everything = false) {
  const before = state.model?.model_version;
  const known = await tell(ask("v1/model"), "modelTrouble", (model) => ({ model, locked: false }));
  const changed = state.model?.model_version !== before;
  looked += 1;
  const history = known && (everything || changed || looked % HISTORY_LOOKS === 0);
  await Promise.all([history ? readHistory() : null, known && driftIsThere ? readDrift() : null]);
}

const readHistory = () => tell(ask("v1/versions"), "historyTrouble", (history) => ({ history }));

async function readDrift() {
  try {
    const drift = await ask("v1/drift");
    set({ looks: noted(state.looks, drift), driftTrouble: null });
  } catch (error) {
    const missing = error instanceof Refused && error.status === 404;
    driftIsThere = !missing;
    set({ driftTrouble: missing ? "Not available: this service does not measure drift." : inWords(error) });
  }
}

/**
 * Take an answer into the state, or say why there is none.
 * @param {Promise<any>} answer
 * @param {"modelTrouble" | "historyTrouble"} trouble
 * @param {(answer: any) => Partial<typeof state>} taken
 */
async function tell(answer, trouble, taken) {
  try {
    const body = await answer;
    set({ [trouble]: null, ...taken(body) });
    return true;
  } catch (error) {
    set({ [trouble]: inWords(error), ...lockedBy(error) });
    return false;
  }
}

/** @param {unknown} error */
function inWords(error) {
  if (error instanceof Refused) return error.message;
  throw error;
}

/** @param {unknown} error */
function lockedBy(error) {
  const status = error instanceof Refused ? error.status : 0;
  if (status === 401) return { locked: true, keyed: true };
  return status === 403 ? { keyed: true } : {};
}

/** @param {File | undefined} file */
async function classify(file) {
  if (!file) return;
  if (state.classify.image) URL.revokeObjectURL(state.classify.image.url);
  const image = { url: URL.createObjectURL(file), name: file.name };
  set({ classify: { image, answer: null, busy: true, trouble: null } });
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  let found;
  try {
    const answer = await ask("v1/classify?top_k=5", { method: "POST", body: file, headers: { "Content-Type": type } });
    found = { answer, busy: false, trouble: null };
  } catch (error) {
    found = { answer: null, busy: false, trouble: inWords(error) };
    set(lockedBy(error));
  }
  if (state.classify.image === image) set({ classify: { image, ...found } }); // else another came meanwhile
}

/** @param {number} version */
function askRollback(version) {
  set({ rollback: { version, trouble: null } });
  openRollback();
}

/** @param {boolean} hold */
async function activate(hold) {
  const { rollback } = state;
  if (!rollback) return;
  const refused = await post(`v1/versions/${rollback.version}/activate?hold=${hold}`);
  if (refused) set({ rollback: { ...rollback, trouble: refused } });
  else closeRollback();
}

/** @param {number} version @param {boolean} pinned */
async function pin(version, pinned) {
  const refused = await post(`v1/versions/${version}/${pinned ? "pin" : "unpin"}`);
  set({ historyTrouble: refused });
}

/** Change something, read the history again; why not, in words. @param {string} path */
async function post(path) {
  set({ changing: true });
  try {
    await ask(path, { method: "POST" });
    await look(true);
    return null;
  } catch (error) {
    set(lockedBy(error));
    return inWords(error);
  } finally {
    set({ changing: false });
  }
}

/** @param {DragEvent} event */
function dropped(event) {
  event.preventDefault(); // or the browser leaves the page for the image
  set({ dragging: false });
  classify(event.dataTransfer?.files[0]);
}

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  if (!state.dragging) set({ dragging: true });
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) set({ dragging: false });
});
document.addEventListener("drop", dropped);
document.addEventListener("paste", (event) => classify(event.clipboardData?.files[0]));
onThemeChange(() => set({}));
set({});
look(true);
setInterval(() => document.hidden || look(), LOOK_MS);
