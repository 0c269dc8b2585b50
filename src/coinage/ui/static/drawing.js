/** One drawing: its pictures with and without the words, seed by seed; each can be enlarged and kept. */

import { call } from "./api.js";
import { el } from "./dom.js";
import { act, openDialog, toast } from "./notices.js";
import { t } from "./texts.js";

/**
 * @typedef {{number: number, prompt: string, seed: number, with_word: boolean}} Picture
 */

/**
 * Make the grid of a drawing; it has a place for each picture that is to come.
 * @param {string} id of the drawing
 * @param {Object} request what was asked for
 * @param {{id: string, token: string, files: {id: string}[]}[]} words those that pictures can be sent to
 * @returns {{element: HTMLElement, expect: function(number): void, add: function(Picture): void}}
 */
export function makeDrawing(id, request, words) {
  const both = request.with_and_without;
  const places = el("div.seeds", { class: both ? "seeds both" : "seeds" });
  const element = el("div.drawn", {}, el("p.asked", { text: request.prompt }), places);
  const mine = words.filter((word) => word.files?.some((file) => request.words.includes(file.id)));
  const filled = new Set();

  function expect(total) {
    while (places.children.length < total) {
      places.append(el("figure.tile", {}, el("div.picture-button", {}, el("span.waiting-picture"))));
    }
    while (places.children.length > total) places.lastChild.remove();
  }

  function add(picture) {
    if (filled.has(picture.number)) return;
    filled.add(picture.number);
    if (places.children.length <= picture.number) expect(picture.number + 1);
    const address = `/api/try/${id}/${picture.number}.png`;
    const seed = t("try.seed", { seed: picture.seed });
    const label = `${t(picture.with_word ? "try.with" : "try.without")}, ${seed}`;
    places.children[picture.number].replaceChildren(
      el(
        "button.picture-button",
        {
          type: "button",
          "aria-label": t("try.enlarge", { label }),
          onclick: () => enlarge(address, label, picture),
        },
        el("img", { src: address, alt: "" }),
      ),
      el("figcaption.soft", { text: request.words.length ? label : t("try.seed", { seed: picture.seed }) }),
    );
  }

  function enlarge(address, label, picture) {
    const keeps = mine.map((word) =>
      el("button", {
        type: "button",
        text: t("try.keep", { token: word.token }),
        onclick: (event) =>
          act(event.currentTarget, async () => {
            await call("POST", `/try/${id}/${picture.number}/keep`, { word: word.id });
            toast(t("try.kept", { token: word.token }));
          }),
      }),
    );
    const dialog = openDialog(
      label,
      [
        el("img.large", { src: address, alt: picture.prompt || request.prompt }),
        el("p.soft", { text: picture.prompt }),
        el(
          "div.buttons.end",
          {},
          ...keeps,
          el("a.button", { href: address, download: `${id}-${picture.number}.png`, text: t("download") }),
          el("button", { type: "button", text: t("close"), onclick: () => dialog.close() }),
        ),
      ],
      { large: true },
    );
  }
  return { element, expect, add };
}
