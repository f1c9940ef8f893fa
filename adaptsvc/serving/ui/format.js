// Figures and dates as people read them.

/** @param {number} share in [0, 1] */
export const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** A difference of two shares. @param {number} gain in [-1, 1] */
export const points = (gain) => `${gain < 0 ? "−" : "+"}${Math.abs(100 * gain).toFixed(1)} points`;

/** A figure of any size. @param {number | null | undefined} value */
export function figure(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** @param {string} at an ISO date */
export function when(at) {
  const date = new Date(at);
  const today = date.toDateString() === new Date().toDateString();
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return today ? time : `${date.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}

/** @param {number} count @param {string} noun */
export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
