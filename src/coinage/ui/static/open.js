/** Begin a word: by its name alone, or from a TOML or a command that was copied. */

import { call } from "./api.js";
import { el } from "./dom.js";
import { act, openDialog } from "./notices.js";
import { t } from "./texts.js";

/**
 * Take what was to be said about a word that was just opened; it is said once.
 * @param {string} id
 * @returns {string[]}
 */
export function takeNotes(id) {
  const notes = JSON.parse(sessionStorage.getItem(`notes ${id}`) ?? "[]");
  sessionStorage.removeItem(`notes ${id}`);
  return notes;
}

/** Ask for the new word, and go to its form. */
export function askForWord() {
  const input = el("input", {
    id: "new-token",
    type: "text",
    required: true,
    maxlength: 64,
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    "aria-describedby": "new-token-help",
  });
  const field = el(
    "div.field",
    {},
    el("label", { for: "new-token", text: t("new.token") }),
    input,
    el("span.help", { id: "new-token-help", text: t("new.token.help") }),
  );
  ask(t("words.new"), field, t("new.make"), () => ({ token: input.value.trim() }));
}

/** Ask for a TOML or a command, and go to the form that it fills. */
export function askForText() {
  const input = el("textarea.mono", {
    id: "open-text",
    required: true,
    rows: 10,
    spellcheck: "false",
    autocapitalize: "off",
  });
  const field = el("div.field", {}, el("label", { for: "open-text", text: t("open.label") }), input);
  ask(t("open.title"), field, t("open.do"), () => ({ toml: input.value }));
}

function ask(title, field, yes, body) {
  const button = el("button.primary", { type: "submit", text: yes });
  const form = el(
    "form.stack",
    { method: "dialog" },
    field,
    el(
      "div.buttons.end",
      {},
      el("button", { type: "button", text: t("cancel"), onclick: () => dialog.close() }),
      button,
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    act(button, async () => {
      const made = await call("POST", "/words", body());
      if (made.notes?.length) sessionStorage.setItem(`notes ${made.id}`, JSON.stringify(made.notes));
      location.href = `/words/${made.id}/edit`;
    });
  });
  const dialog = openDialog(title, [form]);
  field.querySelector("input, textarea").focus();
}
