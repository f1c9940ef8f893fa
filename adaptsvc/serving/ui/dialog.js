// The question before a rollback.

import { html, nothing } from "./vendor/lit-html.js";

/**
 * @param {any} state of the page
 * @param {{confirm: (hold: boolean) => void, cancel: () => void}} then
 * @param {() => any} keyField
 */
export function rollbackDialog(state, then, keyField) {
  const { rollback } = state;
  const send = (/** @type {any} */ event) => {
    event.preventDefault();
    then.confirm(new FormData(event.target).has("hold"));
  };
  return html`<dialog id="rollback" aria-labelledby="rollback-title" @close=${then.cancel}>
    ${rollback
      ? html`<article>
          <h2 id="rollback-title">Activate version ${rollback.version}?</h2>
          <p>It serves within moments in every process, and learning goes on from it. Nothing is deleted.</p>
          ${state.keyed ? keyField() : nothing}
          <form @submit=${send}>
            <label><input type="checkbox" name="hold" /> Hold it: promote nothing until a version is activated again</label>
            ${rollback.trouble ? html`<p class="trouble" role="alert">${rollback.trouble}</p>` : nothing}
            <footer>
              <button type="button" class="secondary" @click=${closeRollback}>Cancel</button>
              <button type="submit" ?disabled=${state.changing}>Activate</button>
            </footer>
          </form>
        </article>`
      : nothing}
  </dialog>`;
}

const dialog = () => /** @type {HTMLDialogElement} */ (document.getElementById("rollback"));

export function openRollback() {
  dialog().showModal();
}

export function closeRollback() {
  dialog().close();
}
