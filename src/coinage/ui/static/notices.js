/** What the page says by itself: problems in one place, short notes that go away, and questions. */

import { ApiError } from "./api.js";
import { byId, el } from "./dom.js";
import { t } from "./texts.js";

/**
 * Return the parts of problems: what, where and how to mend it.
 * @param {{what: string, where?: string, hint?: string}[]} problems
 * @returns {HTMLElement}
 */
export function problemList(problems) {
  return el(
    "ul",
    {},
    ...problems.map((problem) =>
      el(
        "li",
        {},
        el("strong", { text: problem.what }),
        problem.where ? el("p", { text: t("problem.where", { where: problem.where }) }) : null,
        problem.hint ? el("p", { text: problem.hint }) : null,
      ),
    ),
  );
}

/**
 * Show problems above the page until they are closed, or others of the same kind take their place.
 * @param {{what: string, where?: string, hint?: string}[]} problems
 * @param {string} [kind] "" stands alone
 */
export function showProblems(problems, kind = "") {
  clearProblems(kind);
  const list = problemList(problems);
  const box = el("div.problem", { "data-kind": kind }, list);
  box.append(
    el("button.small.plain.icon", {
      type: "button",
      "aria-label": t("close"),
      text: "✕",
      onclick: () => box.remove(),
    }),
  );
  const alerts = byId("alerts");
  const same = [...alerts.children].find((one) => one.firstChild.textContent === list.textContent);
  same?.remove();
  const open = [...document.querySelectorAll("dialog[open]")].pop();
  (open ?? alerts).prepend(box);
  if (open) box.setAttribute("role", "alert");
}

/**
 * Take problems away.
 * @param {string} kind
 */
export function clearProblems(kind) {
  for (const box of document.querySelectorAll(".problem[data-kind]"))
    if (box.dataset.kind === kind) box.remove();
}

/**
 * Show whatever an action may throw; nothing is swallowed.
 * @param {any} error
 */
export function report(error) {
  if (error?.name === "AbortError") return;
  if (error instanceof ApiError) showProblems(error.problems, error.status === 0 ? "away" : "action");
  else {
    showProblems(
      [{ what: t("mistake.what"), where: String(error?.message ?? error), hint: t("mistake.hint") }],
      "mistake",
    );
    console.error(error);
  }
}

/**
 * Run an action of a button: it cannot be pressed twice, and problems are shown.
 * @param {HTMLButtonElement|null} button
 * @param {function(): Promise<any>} action
 * @returns {Promise<any>} what the action returns; undefined if it failed
 */
export async function act(button, action) {
  if (button?.getAttribute("aria-busy") === "true") return undefined;
  button?.setAttribute("aria-busy", "true");
  try {
    const value = await action();
    clearProblems("action");
    clearProblems("away");
    return value;
  } catch (error) {
    report(error);
    return undefined;
  } finally {
    button?.removeAttribute("aria-busy");
  }
}

/**
 * Show a short note that goes away by itself; with a button it stays longer.
 * @param {string} text
 * @param {{label: string, run: function(): void}|null} [action]
 */
export function toast(text, action = null) {
  const box = el("div.toast", {}, el("span", { text }));
  const close = () => box.remove();
  if (action) {
    box.append(
      el("button.small", {
        type: "button",
        text: action.label,
        onclick: () => {
          close();
          action.run();
        },
      }),
    );
  }
  const toasts = byId("toasts");
  toasts.append(box);
  while (toasts.children.length > 3) toasts.firstChild.remove();
  const wait = () =>
    setTimeout(() => (box.contains(document.activeElement) ? wait() : close()), action ? 10000 : 4000);
  wait();
}

/**
 * Open a dialog with a title, contents and buttons; Escape and the close button end it.
 * @param {string} title
 * @param {Node[]} contents
 * @param {{large?: boolean, onclose?: function(): void}} [how]
 * @returns {HTMLDialogElement}
 */
export function openDialog(title, contents, how = {}) {
  const heading = el("h2", { id: `dialog-${document.querySelectorAll("dialog").length}`, text: title });
  const dialog = el(
    how.large ? "dialog.large" : "dialog",
    { "aria-labelledby": heading.id },
    heading,
    ...contents,
  );
  dialog.addEventListener("close", () => {
    dialog.remove();
    how.onclose?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * Ask before something that cannot be taken back.
 * @param {string} question
 * @param {string} yes the button's text
 * @returns {Promise<boolean>}
 */
export function ask(question, yes) {
  return new Promise((resolve) => {
    let answer = false;
    const buttons = el(
      "div.buttons.end",
      {},
      el("button", { type: "button", text: t("cancel"), onclick: () => dialog.close() }),
      el("button.primary", {
        type: "button",
        text: yes,
        onclick: () => {
          answer = true;
          dialog.close();
        },
      }),
    );
    const dialog = openDialog(question, [buttons], { onclose: () => resolve(answer) });
  });
}

/**
 * A button that copies the text of an element.
 * @param {HTMLElement} source
 * @param {string} label for screen readers: what is copied
 * @returns {HTMLElement}
 */
export function copyButton(source, label) {
  const button = el("button.small", { type: "button", text: t("copy"), "aria-label": label });
  button.addEventListener("click", async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      // a page that is not on this computer may have no clipboard
      getSelection().selectAllChildren(source);
      done = document.execCommand("copy");
    }
    toast(t(done ? "copied" : "copy.failed"));
  });
  return button;
}
