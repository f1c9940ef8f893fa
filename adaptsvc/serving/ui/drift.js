// Drift: each signal's evidence against its threshold, as it was while the page was open.

import { html, nothing } from "./vendor/lit-html.js";
import { axis, chart, colour, stroke, withPen } from "./charts.js";
import { counted, figure, when } from "./format.js";

const KEPT = 720; // an hour at one look every 5 seconds
const TITLES = {
  embedding: "What images look like",
  confidence: "Confidence",
  entropy: "Entropy",
  classes: "Shares of the classes",
  ood: "Share out of distribution",
  decode: "Share that is no image",
};

/** The looks so far with one more. @param {any[]} looks @param {any} drift of GET /v1/drift */
export const noted = (looks, drift) => [...looks, { at: Date.now() / 1000, drift }].slice(-KEPT);

/** @param {any} state of the page */
export function driftCard(state) {
  const { looks, driftTrouble } = state;
  const last = looks.at(-1)?.drift;
  return html`<article aria-labelledby="drift-title" class="wide">
    <h2 id="drift-title">Drift</h2>
    ${last ? shown(last, looks) : html`<p class="muted">${driftTrouble ?? "Asking…"}</p>`}
  </article>`;
}

/** @param {any} drift @param {any[]} looks */
function shown(drift, looks) {
  const { reference, images, signals } = drift;
  const since = when(new Date(1000 * looks[0].at).toISOString());
  return html`<p class="muted small">
      ${reference
        ? html`${counted(images, "image")} held against the ${counted(reference.images, "image")} of version ${reference.version}.`
        : html`No reference yet: the worker builds one from the first images it sees.`}
      The charts are what this page saw since ${since}; it asks every 5 seconds and forgets when it is closed.
    </p>
    <div class="signals">${signals.map((/** @type {any} */ each) => signal(each))}</div>`;
}

/** @param {any} each */
function signal(each) {
  const title = TITLES[/** @type {"ood"} */ (each.signal)] ?? each.signal;
  const state = each.alarm ? html`<span class="badge bad">alarm</span>` : html`<span class="badge">quiet</span>`;
  const since = each.alarm && each.since ? html`, in alarm since ${when(each.since)}` : nothing;
  const before = each.reference_value === null || each.reference_value === undefined ? nothing : html`, was ${figure(each.reference_value)}`;
  return html`<section aria-label=${title}>
    <h3>${title} ${state}</h3>
    <p class="small">now ${figure(each.value)}${before}<br /><span class="muted">evidence ${figure(each.statistic)}, alarm at ${figure(each.threshold)}${since}</span></p>
    <div class="chart" data-signal=${each.signal} role="img" aria-label=${`Evidence over time, now ${figure(each.statistic)} of ${figure(each.threshold)}`}></div>
  </section>`;
}

/** Draw the charts where they are on the page. @param {any} state */
export function drawDrift(state) {
  for (const host of document.querySelectorAll("[data-signal]")) {
    const name = /** @type {HTMLElement} */ (host).dataset.signal;
    const rows = state.looks.map((/** @type {any} */ look) => look.drift.signals.find((/** @type {any} */ s) => s.signal === name));
    const times = state.looks.map((/** @type {any} */ look) => look.at);
    const evidence = rows.map((/** @type {any} */ row) => row?.statistic ?? null);
    chart(/** @type {HTMLElement} */ (host), options, Object.assign([times, evidence], { threshold: rows.at(-1)?.threshold ?? null }));
  }
}

function options() {
  const times = (/** @type {any} */ _, /** @type {number[]} */ splits) => splits.map((at) => new Date(1000 * at).toLocaleTimeString());
  const least = (/** @type {any} */ plot, /** @type {number} */ _low, /** @type {number} */ high) => [0, 1.15 * Math.max(high ?? 0, plot.data.threshold ?? 0, 1e-9)];
  const sides = (/** @type {any} */ _plot, /** @type {number} */ low, /** @type {number} */ high) => [Math.min(low, high - 60), high];
  return {
    height: 110,
    scales: { x: { range: sides }, y: { range: least } },
    axes: [axis({ size: 24, space: 80, values: times, grid: { show: false } }), axis({ size: 40, space: 34 })],
    series: [{}, { stroke: colour("accent"), width: 2, points: { size: 4, fill: colour("accent") } }],
    hooks: { draw: [limit] },
  };
}

/** @param {any} plot */
function limit(plot) {
  const { threshold } = plot.data;
  if (threshold === null) return;
  withPen(plot, (pen, x, y, ratio) => {
    pen.strokeStyle = colour("bad");
    pen.setLineDash([5 * ratio, 4 * ratio]);
    stroke(pen, [x(plot.scales.x.min), y(threshold), x(plot.scales.x.max), y(threshold)]);
  });
}
