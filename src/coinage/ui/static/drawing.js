/**
 * One drawing: its pictures with and without the words, seed by seed, and where in them the words act;
 * each can be enlarged and kept.
 */

import { call } from "./api.js";
import { el } from "./dom.js";
import { act, openDialog, toast } from "./notices.js";
import { t } from "./texts.js";

/**
 * @typedef {{number: number, prompt: string, seed: number, with_word: boolean, maps?: string[]}} Picture
 */

/**
 * Make the grid of a drawing; it has a place for each picture that is to come.
 * @param {string} id of the drawing
 * @param {Object} request what was asked for
 * @param {{id: string, token: string, files: {id: string}[]}[]} words those that pictures can be sent to
 * @returns {{element: HTMLElement, expect: function(number): void, add: function(Picture): void,
 *   note: function(string[]): void}} note: what is to be known of it
 */
export function makeDrawing(id, request, words) {
  const both = request.with_and_without;
  const places = el("div.seeds", { class: both ? "seeds both" : "seeds" });
  const views = []; // each shows a picture, or where the chosen word acts in it
  const acts = makeActs(() => views.forEach((show) => show()));
  const notes = el("div.notes", { role: "status" });
  const element = el("div.drawn", {}, el("p.asked", { text: request.prompt }), notes, acts.element, places);
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
    const seed = t("try.seed", { seed: picture.seed });
    const plain = request.words.length
      ? `${t(picture.with_word ? "try.with" : "try.without")}, ${seed}`
      : seed;
    const image = el("img", { alt: "" });
    const button = el("button.picture-button", { type: "button" }, image);
    const caption = el("figcaption.soft");
    const show = () => {
      const map = acts.mapOf(picture);
      const file = `${picture.number}${map}`;
      const label = map ? t("try.acts.in", { token: acts.word(), label: seed }) : plain;
      image.src = `/api/try/${id}/${file}.png`;
      button.setAttribute("aria-label", t("try.enlarge", { label }));
      button.onclick = () => enlarge(file, label, picture);
      caption.textContent = label;
    };
    views.push(show);
    acts.offer(picture.maps ?? []);
    show();
    places.children[picture.number].replaceChildren(button, caption);
  }

  function enlarge(file, label, picture) {
    const address = `/api/try/${id}/${file}.png`;
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
          el("a.button", { href: address, download: `${id}-${file}.png`, text: t("download") }),
          el("button", { type: "button", text: t("close"), onclick: () => dialog.close() }),
        ),
      ],
      { large: true },
    );
  }
  function note(texts) {
    if (notes.children.length === texts.length) return; // it is not read out again
    notes.replaceChildren(...texts.map((text) => el("p.note-line", { lang: "en", text })));
  }
  return { element, expect, add, note };
}

/** Make the buttons, one for each word, that show where it acts; none is pressed at first. */
function makeActs(changed) {
  const buttons = new Map(); // by the word
  const chips = el("div.chips");
  const element = el("div.acts", { hidden: true }, chips, el("p.soft", { text: t("try.acts.help") }));
  let chosen = "";

  function choose(word) {
    chosen = word === chosen ? "" : word;
    for (const [each, button] of buttons) button.setAttribute("aria-pressed", String(each === chosen));
    changed();
  }
  function offer(words) {
    for (const word of words) {
      if (buttons.has(word)) continue;
      const text = t("try.acts.of", { token: word });
      const how = { type: "button", "aria-pressed": "false", text, onclick: () => choose(word) };
      buttons.set(word, el("button.chip", how));
      chips.append(buttons.get(word));
      element.hidden = false;
    }
  }
  /** Return what the name of a picture's file goes on with: "" where the chosen word has no map. */
  function mapOf(picture) {
    const place = picture.maps?.indexOf(chosen) ?? -1;
    return place < 0 ? "" : `.word${place ? place + 1 : ""}`;
  }
  return { element, offer, mapOf, word: () => chosen };
}
