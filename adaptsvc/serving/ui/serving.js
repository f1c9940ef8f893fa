// What serves now: its facts, and how well its confidence matched its accuracy.

import { html, nothing } from "./vendor/lit-html.js";
import { axis, chart, colour, stroke, withPen } from "./charts.js";
import { counted, figure, percent, when } from "./format.js";

const BINS = 10;
const FITTED = {
  default: "not fitted",
  inherited: "its parent's",
  "label-free": "without labels",
  labels: "by labels",
};
const RULE = { nothing: "none yet", window: "by recent images", labels: "by labels" };

/** @param {any} state of the page */
export function servingCard(state) {
  const { model, history } = state;
  if (!model) return html`<article><h2>Serving</h2><p class="muted">${state.modelTrouble ?? "Asking…"}</p></article>`;
  const { calibration, ood } = model;
  return html`<article aria-labelledby="serving-title" class="serving">
    <h2 id="serving-title">Serving</h2>
    <dl>
      <div><dt>Version</dt><dd><strong>${model.model_version}</strong> ${history?.held ? html`<span class="badge">held</span>` : nothing}</dd></div>
      <div><dt>Learned by</dt><dd>${model.method}</dd></div>
      <div><dt>Model</dt><dd>${model.model}</dd></div>
      <div><dt>Since</dt><dd>${when(model.ready_since)}</dd></div>
      <div><dt>Temperature</dt><dd>${figure(calibration.temperature)} <small>${FITTED[/** @type {"labels"} */ (calibration.fitted_on)]}</small></dd></div>
      <div><dt>OOD threshold</dt><dd>${figure(ood.threshold)} <small>${RULE[/** @type {"labels"} */ (ood.fitted_on)]}</small></dd></div>
    </dl>
    ${model.refused ? html`<p class="trouble" role="alert">A newer version was not taken: ${model.refused}</p>` : nothing}
    ${state.modelTrouble ? html`<p class="trouble" role="alert">${state.modelTrouble}</p>` : nothing}
    <h3>Reliability</h3>
    ${reliability(calibration.reliability ?? [])}
  </article>`;
}

/** @param {any[]} bins of the manifest */
function reliability(bins) {
  if (bins.length === 0) {
    return html`<p class="muted">Not known: this version was judged by too few labels that were held out
      (<code>guard.labels_min</code>). Send labels, and the next round shows it.</p>`;
  }
  const images = bins.reduce((sum, bin) => sum + bin.images, 0);
  const ece = bins.reduce((sum, bin) => sum + bin.images * Math.abs(bin.accuracy - bin.confidence), 0) / images;
  return html`<div class="chart" id="reliability" role="img"
      aria-label=${`Accuracy by confidence on ${counted(images, "labeled image")}, calibration error ${percent(ece)}`}></div>
    <p class="muted small">Share that was right by how sure it was, on ${counted(images, "held-out label")}, with one
      standard error; on the dashed line confidence is accuracy. Calibration error (ECE) <strong>${percent(ece)}</strong>.</p>
    <details><summary class="small">The figures</summary>${figures(bins)}</details>`;
}

/** @param {any[]} bins */
function figures(bins) {
  return html`<table class="small"><thead><tr><th scope="col">sure</th><th scope="col">right</th><th scope="col">images</th></tr></thead>
    <tbody>${bins.map((bin) => html`<tr><td>${percent(bin.confidence)}</td><td>${percent(bin.accuracy)}</td><td>${bin.images}</td></tr>`)}</tbody></table>`;
}

/** Draw the diagram where it is on the page. @param {any} state */
export function drawServing(state) {
  const host = document.getElementById("reliability");
  const bins = state.model?.calibration.reliability ?? [];
  if (!host || bins.length === 0) return;
  const x = Array.from({ length: BINS }, (_, k) => (k + 0.5) / BINS);
  const of = (/** @type {(bin: any) => number} */ pick) => {
    const column = Array(BINS).fill(null);
    for (const bin of bins) column[Math.max(0, Math.ceil(bin.confidence * BINS - 1e-9) - 1)] = pick(bin);
    return column;
  };
  const spread = (/** @type {any} */ bin) => Math.sqrt((bin.accuracy * (1 - bin.accuracy)) / bin.images);
  chart(host, options, [x, of((bin) => bin.accuracy), of(spread)]);
}

function options() {
  const { uPlot } = /** @type {any} */ (globalThis);
  const shares = (/** @type {any} */ _, /** @type {number[]} */ splits) => splits.map((v) => `${Math.round(100 * v)} %`);
  const range = () => [0, 1];
  return {
    height: 230,
    scales: { x: { time: false, range }, y: { range } },
    axes: [axis({ values: shares, size: 28 }), axis({ values: shares, size: 48 })],
    series: [
      {},
      { fill: colour("accent-soft"), stroke: colour("accent"), width: 1, points: { show: false }, paths: uPlot.paths.bars({ size: [0.92, 80] }) },
      { show: false },
    ],
    hooks: { draw: [diagonal] },
  };
}

/** @param {any} plot */
function diagonal(plot) {
  withPen(plot, (pen, x, y, ratio) => {
    const [centres, accuracy, spread] = plot.data;
    pen.strokeStyle = colour("muted");
    pen.setLineDash([5 * ratio, 4 * ratio]);
    stroke(pen, [x(0), y(0), x(1), y(1)]);
    pen.setLineDash([]);
    pen.strokeStyle = colour("ink");
    centres.forEach((/** @type {number} */ at, /** @type {number} */ k) => {
      if (spread[k]) stroke(pen, [x(at), y(accuracy[k] - spread[k]), x(at), y(accuracy[k] + spread[k])]);
    });
  });
}
