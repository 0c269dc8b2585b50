/** Captions by a model of the user's own; shown only where there is such a model. */

import { call } from "./api.js";
import { el } from "./dom.js";
import { act, toast } from "./notices.js";
import { count, t } from "./texts.js";

/**
 * Make the part of the form that has images described.
 * @param {HTMLElement} place
 * @param {string} id of the word
 * @param {import("./store.js").Store} store
 * @returns {{setCaptioners: function({id: string, name: string}[]): void}}
 */
export function makeDescriber(place, id, store) {
  const model = el("select", { id: "describe-model" });
  const over = el("input", { type: "checkbox", id: "describe-all" });
  const button = el("button", { type: "button", text: t("describe.do") });
  const stop = el("button.small", { type: "button", text: t("action.stop"), hidden: true });
  const bar = el("progress", { "aria-label": t("describe.progress"), hidden: true });
  const told = el("span.soft", { role: "status" });
  const element = el(
    "div.stack",
    { hidden: true },
    el("div.field", {}, el("label", { for: model.id, text: t("describe.title") }), model),
    el("label.check", {}, over, t("describe.all")),
    el("div.buttons", {}, button, bar, stop, told),
    el("p.help", { text: t("describe.help") }),
  );
  place.append(element);
  let stopped = false;
  stop.addEventListener("click", () => {
    stopped = true;
  });
  button.addEventListener("click", () => act(button, describe));

  /** One image after the other, so that each caption is kept as it comes. */
  async function describe() {
    await store.flush();
    const images = (store.word.images ?? []).filter((image) => over.checked || !image.caption);
    if (!images.length) {
      toast(t("describe.nothing"));
      return;
    }
    stopped = false;
    let changed = 0;
    bar.max = images.length;
    for (const shown of [bar, stop]) shown.hidden = false;
    try {
      for (const [at, image] of images.entries()) {
        if (stopped) break;
        bar.value = at;
        told.textContent = t("describe.done", { done: at, total: images.length });
        const wish = { captioner: model.value, images: [image.id], overwrite: over.checked };
        const answer = await call("POST", `/words/${id}/describe`, wish);
        changed += answer.changed;
        store.take({ ...store.word, images: answer.images });
      }
    } finally {
      told.textContent = "";
      for (const shown of [bar, stop]) shown.hidden = true;
    }
    toast(count("describe.changed", changed));
  }

  return {
    setCaptioners(captioners) {
      element.hidden = !captioners.length;
      model.replaceChildren(...captioners.map((one) => el("option", { value: one.id, text: one.name })));
    },
  };
}
