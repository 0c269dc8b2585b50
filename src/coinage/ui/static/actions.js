/** What can be done with a run; the buttons follow from the state of its process. */

import { call } from "./api.js";
import { el } from "./dom.js";
import { act, ask, openDialog, toast } from "./notices.js";
import { known } from "./states.js";
import { t } from "./texts.js";

/**
 * Make the row of buttons.
 * @param {HTMLElement} place
 * @param {string} id of the word
 * @param {function(): void} changed is called after each action
 * @returns {{update: function(Object, Object): void}}
 */
export function makeActions(place, id, changed) {
  let shown = "";
  let progress = {};

  const send = (button, what, body, note) =>
    act(button, async () => {
      await call("POST", `/words/${id}/${what}`, body);
      if (note) toast(note);
      changed();
    });
  const button = (text, run, style = "button") =>
    el(style, { type: "button", text, onclick: (event) => run(event.currentTarget) });
  const goOn = (self) => send(self, "continue", { steps: null });
  const change = (style = "a.button") => el(style, { href: `/words/${id}/edit`, text: t("action.change") });
  const again = () =>
    button(t("action.again"), (self) =>
      act(self, async () => {
        const made = await call("POST", "/words", { copy: id });
        location.href = `/words/${made.id}/edit`;
      }),
    );
  const end = (self) =>
    act(self, async () => {
      if (!(await ask(t("action.kill.ask"), t("action.kill")))) return;
      await call("POST", `/words/${id}/stop`);
      changed();
    });
  const stop = () =>
    button(t("action.stop"), (self) => send(self, "stop", {}, t("action.stop.asked")), "button.danger");
  const train = () => [
    button(t("action.preview"), (self) => send(self, "preview", {}, t("action.preview.asked"))),
    button(t("action.save"), (self) => send(self, "save", {}, t("action.save.asked"))),
    stop(),
  ];
  const STATES = {
    draft: () => [change("a.button.primary")],
    queued: () => [button(t("action.cancel"), (self) => send(self, "cancel")), change()],
    starting: () => [stop()],
    running: train,
    stopping: () => [
      el("button", { type: "button", disabled: true, text: t("action.stopping") }),
      button(t("action.kill"), end, "button.danger"),
    ],
    ended: () => [button(t("action.more"), askForSteps), again()],
    stopped: () => [button(t("action.go"), goOn, "button.primary"), again()],
    failed: () => [change("a.button.primary"), button(t("action.go"), goOn), again()],
    killed: () => [button(t("action.go"), goOn, "button.primary"), again()],
  };

  function askForSteps() {
    const input = el("input", {
      id: "more-steps",
      type: "number",
      min: (progress.step ?? 0) + 1,
      step: 1,
      required: true,
      value: 2 * (progress.total ?? 100),
    });
    const yes = el("button.primary", { type: "submit", text: t("action.go") });
    const form = el(
      "form.stack",
      {},
      el("div.field", {}, el("label", { for: "more-steps", text: t("action.more.label") }), input),
      el(
        "div.buttons.end",
        {},
        el("button", { type: "button", text: t("cancel"), onclick: () => dialog.close() }),
        yes,
      ),
    );
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      await send(yes, "continue", { steps: Number(input.value) });
      if (!dialog.querySelector(".problem")) dialog.close();
    });
    const dialog = openDialog(t("action.more"), [form]);
  }

  return {
    update(job, news) {
      progress = news;
      const state = known(job.state);
      if (state === shown) return;
      shown = state;
      const focused = place.contains(document.activeElement);
      place.replaceChildren(...STATES[state]());
      if (focused) place.querySelector("button:not(:disabled), a")?.focus();
    },
  };
}
