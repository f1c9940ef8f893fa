// The card that takes an image and shows what the service says of it.

import { html, nothing } from "./vendor/lit-html.js";
import { figure, percent } from "./format.js";

/**
 * @param {any} state of the page
 * @param {(file: File | undefined) => void} give takes the image that was chosen
 */
export function classifyCard(state, give) {
  const { image, answer, busy, trouble } = state.classify;
  const chosen = (/** @type {any} */ event) => {
    give(event.target.files[0]);
    event.target.value = ""; // so that the same file may be chosen again
  };
  return html`<article aria-labelledby="classify-title" class="classify">
    <h2 id="classify-title">Classify</h2>
    <label class="drop ${state.dragging ? "over" : ""}">
      ${image ? html`<img src=${image.url} alt=${`The image ${image.name}`} />` : arrow()}
      <span><strong>${image ? "Another image" : "Drop an image"}</strong> or choose a file; pasting works, too.</span>
      <input type="file" accept="image/*" class="hidden" @change=${chosen} />
    </label>
    <div role="status" aria-live="polite" aria-busy=${busy ? "true" : "false"} class="answer">
      ${busy && !answer ? html`<p>Asking…</p>` : nothing} ${answer ? shown(answer, state.model) : nothing}
      ${image || trouble ? nothing : html`<p class="muted">The label, how sure it is, and how strange the image looks.</p>`}
    </div>
    ${trouble ? html`<p class="trouble" role="alert">${trouble}</p>` : nothing}
  </article>`;
}

/** @param {any} answer of POST /v1/classify @param {any} model of GET /v1/model */
function shown(answer, model) {
  const [result] = answer.results;
  if (result.error) return html`<p class="trouble">${result.error.message}</p>`;
  return html`<p class="verdict"><strong class="label">${result.label}</strong> <span>${percent(result.confidence)} sure</span></p>
    <ol class="bars">
      ${result.top.map(
        (/** @type {any} */ each) => html`<li>
          <span>${each.label}</span>
          <progress max="1" .value=${each.probability} aria-label=${`Probability of ${each.label}`}></progress>
          <span class="number">${percent(each.probability)}</span>
        </li>`,
      )}
    </ol>
    <p class="ood">${strangeness(result, model)}</p>
    <p class="muted small">Answered by version ${answer.model_version}${calibrated(answer, model)}.</p>`;
}

const CALIBRATED = {
  default: ", whose confidence is not calibrated yet",
  inherited: ", calibrated as its parent was",
  "label-free": ", calibrated without labels",
  labels: ", calibrated by labels",
};

/** @param {any} answer @param {any} model */
function calibrated(answer, model) {
  return answer.model_version === model?.model_version ? CALIBRATED[/** @type {"labels"} */ (model.calibration.fitted_on)] : "";
}

/** @param {any} result @param {any} model */
function strangeness(result, model) {
  const badges = {
    true: html`<span class="badge bad">out of distribution</span>`,
    false: html`<span class="badge good">a known kind</span>`,
    null: html`<span class="badge">no threshold yet</span>`,
  };
  const threshold = model?.ood.threshold;
  const limit = typeof threshold === "number" ? `, the threshold is ${figure(threshold)}` : "";
  return html`${badges[/** @type {"true"} */ (String(result.is_ood))]} OOD score ${figure(result.ood_score)}${limit}`;
}

function arrow() {
  return html`<svg viewBox="0 0 24 24" aria-hidden="true" width="36" height="36">
    <path d="M12 16V4m0 0L7 9m5-5 5 5M4 16v3a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-3" />
  </svg>`;
}
