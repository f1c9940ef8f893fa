// The history: what each round gained over the zero-shot model, what was refused and why, rollback and pins.

import { html, nothing } from "./vendor/lit-html.js";
import { axis, chart, colour, stroke, withPen } from "./charts.js";
import { points, when } from "./format.js";

const REASONS = {
  not_finite: "its answers were not finite",
  marginal_collapsed: "its answers collapsed to few classes",
  disagrees_with_zero_shot: "it disagrees where the zero-shot model is sure",
  class_swallowed: "one class swallowed another",
  worse_accuracy_on_labels: "it is less accurate on held-out labels",
  worse_nll_on_labels: "its confidence is worse on held-out labels",
  window_uninformative: "the zero-shot model hardly tells the recent images apart",
  labels_not_above_chance: "the labels fit the zero-shot model no better than in random order",
};

/** What happened, oldest first. @param {any} history of GET /v1/versions */
function events(history) {
  const versions = history.versions.map((/** @type {any} */ v) => ({ ...v, at: v.created_at, refusal: null }));
  const refused = history.refused.map((/** @type {any} */ r) => ({ ...r, id: null, refusal: r.reasons }));
  return [...versions, ...refused].sort((a, b) => Date.parse(a.at ?? 0) - Date.parse(b.at ?? 0));
}

/** The gain over zero-shot, by labels where there were any. @param {any} event */
function gainOf(event) {
  if (event.method === "zero-shot") return { gain: 0, within: 0, by: "" };
  const measured = event.metrics.gain_over_zero_shot_on_labels;
  if (measured !== undefined) return { gain: measured, within: 0, by: "labels" };
  const gain = event.metrics.gain_over_zero_shot_estimate;
  return gain === undefined ? null : { gain, within: event.metrics.gain_over_zero_shot_bound, by: "estimate" };
}

/**
 * @param {any} state of the page
 * @param {{activate: (version: number) => void, pin: (version: number, pinned: boolean) => void}} change
 */
export function versionsCard(state, change) {
  const { history } = state;
  if (!history) return html`<article><h2>Versions</h2><p class="muted">${state.historyTrouble ?? "Asking…"}</p></article>`;
  const all = events(history);
  return html`<article aria-labelledby="versions-title" class="wide">
    <h2 id="versions-title">Versions</h2>
    ${history.held ? html`<p class="note">Version ${history.serving} is held: nothing is promoted until a version is activated without a hold.</p>` : nothing}
    ${state.historyTrouble ? html`<p class="trouble" role="alert">${state.historyTrouble}</p>` : nothing}
    ${all.filter(gainOf).length > 1 ? gainChart() : nothing}
    <table class="timeline">
      <thead><tr><th scope="col">Version</th><th scope="col">When</th><th scope="col">Learned by</th><th scope="col">Gain over zero-shot</th><th scope="col">State</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
      <tbody>${[...all].reverse().map((event) => (event.refusal ? refusedRow(event) : versionRow(event, state, change)))}</tbody>
    </table>
    ${history.before === null ? nothing : html`<p class="muted small">Older versions are left out; <code>adaptsvc versions list</code> has them.</p>`}
  </article>`;
}

function gainChart() {
  return html`<div class="chart" id="gain" role="img" aria-label="Gain over zero-shot of every version; the table below has the figures"></div>
    <ul class="legend small muted">
      <li><i class="dot"></i> accuracy gained, by the held-out labels of its round</li>
      <li><i class="dot hollow"></i> estimated without labels, and the most it may be off</li>
      <li><i class="cross"></i> refused</li>
    </ul>`;
}

/** @param {any} event @param {any} state @param {any} change */
function versionRow(event, state, change) {
  const { id, serving, pinned, condition } = event;
  const off = state.changing;
  return html`<tr class=${serving ? "now" : ""}>
    <th scope="row" data-label="Version">${id}</th>
    ${shared(event)}
    <td data-label="State"><div>
      ${serving ? html`<span class="badge good">serving</span>` : nothing} ${pinned ? html`<span class="badge">pinned</span>` : nothing}
      ${condition === "kept" ? nothing : html`<span class="badge ${condition === "refused" ? "bad" : ""}">${condition}</span>`}
      ${event.reason ? html`<span class="small">${event.reason}</span>` : nothing}
    </div></td>
    <td class="actions">
      ${condition === "kept" && !(serving && !state.history.held)
        ? html`<button type="button" class="outline" ?disabled=${off} aria-label=${`${serving ? "Release" : "Activate"} version ${id}`}
            @click=${() => change.activate(id)}>${serving ? "Release" : "Activate"}</button>`
        : nothing}
      ${condition === "refused"
        ? nothing
        : html`<button type="button" class="outline secondary" ?disabled=${off} aria-label=${`${pinned ? "Unpin" : "Pin"} version ${id}`}
            @click=${() => change.pin(id, !pinned)}>${pinned ? "Unpin" : "Pin"}</button>`}
    </td>
  </tr>`;
}

/** @param {any} event */
function refusedRow(event) {
  const said = event.refusal.map((/** @type {string} */ code) => REASONS[/** @type {"not_finite"} */ (code)] ?? code);
  return html`<tr class="refused">
    <th scope="row" data-label="Version"><span class="hidden">A refused candidate</span>×</th>
    ${shared(event)}
    <td data-label="State" colspan="2"><div><span class="badge bad">refused</span> <span class="small">${said.join("; ")}</span></div></td>
  </tr>`;
}

/** The cells that versions and refused candidates both have. @param {any} event */
function shared(event) {
  const from = event.parent === null ? nothing : html`<span class="muted">from ${event.parent}</span>`;
  return html`<td data-label="When"><div>${event.at ? when(event.at) : "–"}</div></td>
    <td data-label="Learned by"><div>${event.method ?? "–"} ${from}</div></td>
    <td data-label="Gain over zero-shot"><div>${gainCell(event)}</div></td>`;
}

/** @param {any} event */
function gainCell(event) {
  const found = gainOf(event);
  if (!found) return "–";
  if (found.by === "") return html`<span class="muted">the reference</span>`;
  if (found.by === "labels") {
    return html`${points(found.gain)} <span class="muted small">on ${event.metrics.labels_judged_by} labels</span>`;
  }
  return html`${points(found.gain)} <span class="muted small">estimated, ±${(100 * found.within).toFixed(1)}</span>`;
}

/** Draw the chart where it is on the page. @param {any} state */
export function drawVersions(state) {
  const host = document.getElementById("gain");
  if (!host || !state.history) return;
  const shown = events(state.history)
    .map((event) => ({ event, found: gainOf(event) }))
    .filter(({ found }) => found !== null);
  const rows = shown.map(({ event, found }) => ({ ...found, name: event.refusal ? "×" : String(event.id), refused: Boolean(event.refusal) }));
  chart(host, gainOptions, columns(rows));
}

/** @param {any[]} rows */
function columns(rows) {
  const values = rows.map((row) => (row.refused ? null : row.gain));
  return Object.assign([rows.map((_, k) => k), values], { rows });
}

function gainOptions() {
  const names = (/** @type {any} */ plot, /** @type {number[]} */ splits) => splits.map((k) => plot.data.rows?.[k]?.name ?? "");
  const shares = (/** @type {any} */ _, /** @type {number[]} */ splits) => splits.map((v) => `${Math.round(100 * v)}`);
  return {
    height: 200,
    scales: { x: { time: false, range: sides }, y: { range: (/** @type {any} */ plot) => heights(plot.data.rows ?? []) } },
    axes: [
      axis({ values: names, size: 24, incrs: [1, 2, 5, 10, 20, 50], label: "version", labelSize: 18, labelFont: "12px system-ui, sans-serif", grid: { show: false } }),
      axis({ values: shares, size: 40, label: "points", labelSize: 18, labelFont: "12px system-ui, sans-serif" }),
    ],
    series: [{}, { stroke: colour("accent-soft"), width: 2, spanGaps: true, points: { show: false } }],
    hooks: { draw: [marks] },
  };
}

/** @param {any} plot @param {number} low @param {number} high */
const sides = (plot, low, high) => [low - 0.5, high + 0.5];

/** The estimate's bounds may reach far: the chart shows the gains, and the bounds as far as there is room. @param {any[]} rows */
function heights(rows) {
  const gains = rows.map((row) => row.gain);
  const [low, high] = [Math.min(0, ...gains), Math.max(0, ...gains)];
  const room = Math.max(0.02, 0.25 * (high - low));
  return [low - room, high + room];
}

/** @param {any} plot */
function marks(plot) {
  withPen(plot, (pen, x, y, ratio) => {
    pen.strokeStyle = colour("muted");
    stroke(pen, [x(-1), y(0), x(plot.data.rows.length), y(0)]);
    plot.data.rows.forEach((/** @type {any} */ row, /** @type {number} */ k) => mark(pen, row, [x(k), y(row.gain)], [y(row.gain - row.within), y(row.gain + row.within)], ratio));
  });
}

/** @param {CanvasRenderingContext2D} pen @param {any} row @param {number[]} place @param {number[]} bounds @param {number} ratio */
function mark(pen, row, [x, y], bounds, ratio) {
  pen.lineWidth = 2 * ratio;
  const size = 4.5 * ratio;
  pen.strokeStyle = pen.fillStyle = colour(row.refused ? "bad" : "accent");
  if (row.within > 0) {
    pen.lineWidth = ratio;
    stroke(pen, [x, bounds[0], x, bounds[1]]);
    pen.lineWidth = 2 * ratio;
  }
  if (row.refused) {
    stroke(pen, [x - size, y - size, x + size, y + size]);
    stroke(pen, [x - size, y + size, x + size, y - size]);
    return;
  }
  pen.beginPath();
  pen.arc(x, y, size, 0, 7);
  if (row.by === "estimate") pen.fillStyle = colour("card");
  pen.fill();
  pen.stroke();
}
