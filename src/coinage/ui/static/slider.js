/** Pictures over the steps under one slider: by mouse, finger or arrow keys. */

import { el, marked } from "./dom.js";
import { t } from "./texts.js";

const STRIP = 6; // small pictures below a large one

/**
 * @typedef {{key: string, text: string, note?: string, word: string, still?: boolean,
 *   pictures: {step: number, url: string}[]}} Tile
 */

/**
 * Make a stage without pictures.
 * @param {{columns?: number, plain?: boolean}} [how] `plain` leaves the small pictures out
 * @returns {{element: HTMLElement, update: function(Tile[][]): void}}
 */
export function makeStage(how = {}) {
  const range = el("input", {
    type: "range",
    min: 0,
    "aria-label": t("stage.slider"),
    oninput: () => choose(Number(range.value)),
  });
  const told = el("output");
  const first = el("button.small", { type: "button", text: t("stage.first"), onclick: () => choose(0) });
  const last = el("button.small", {
    type: "button",
    text: t("stage.last"),
    onclick: () => choose(steps.length - 1),
  });
  const slider = el("div.slider", {}, range, first, last, told);
  const tiles = el("div.tiles");
  const element = el("div.stage", {}, slider, tiles);
  let steps = [];
  let at = null; // the chosen step; null: the newest, also when newer ones come
  let shown = new Map(); // key of a tile to its parts
  let plan = "";

  function choose(place) {
    at = place >= steps.length - 1 ? null : steps[place];
    show();
  }

  function show() {
    const place =
      at === null
        ? steps.length - 1
        : Math.max(
            0,
            steps.findLastIndex((step) => step <= at),
          );
    range.max = Math.max(0, steps.length - 1);
    range.value = place;
    const label = steps.length ? t("stage.step", { step: steps[place] }) : "";
    told.textContent = label;
    range.setAttribute("aria-valuetext", label);
    slider.hidden = steps.length < 2;
    for (const tile of shown.values()) tile.show(steps[place]);
  }

  function update(groups) {
    const flat = groups.flat();
    steps = [
      ...new Set(flat.filter((tile) => !tile.still).flatMap((tile) => tile.pictures.map((one) => one.step))),
    ].sort((a, b) => a - b);
    const aboutTile = (tile) => [tile.key, tile.text, tile.note, tile.word];
    const news = JSON.stringify(groups.map((group) => group.map(aboutTile)));
    if (news !== plan) {
      plan = news;
      tiles.style.setProperty("--columns", how.columns ?? columnsFor(groups.map((group) => group.length)));
      shown = new Map(
        flat.map((tile) => [tile.key, makeTile(tile, (step) => choose(steps.indexOf(step)), how)]),
      );
      tiles.replaceChildren(
        ...groups.map((group) => {
          const made = el("div.group", {}, ...group.map((tile) => shown.get(tile.key).element));
          made.style.setProperty("--tiles", group.length);
          return made;
        }),
      );
    }
    for (const tile of flat) shown.get(tile.key).update(tile.pictures);
    show();
  }
  return { element, update };
}

/** Return how many columns leave the fewest gaps, when groups stay together: 4, 5 or 3. */
function columnsFor(sizes) {
  const gaps = (columns) => {
    let rows = 0;
    let room = 0;
    for (const size of sizes.map((one) => Math.min(one, columns))) {
      if (size > room) {
        rows += 1;
        room = columns;
      }
      room -= size;
    }
    return rows * columns - sizes.reduce((sum, size) => sum + Math.min(size, columns), 0);
  };
  return [4, 5, 3].reduce((best, columns) => (gaps(columns) < gaps(best) ? columns : best));
}

function makeTile(tile, choose, how) {
  const picture = el("img.picture", {
    alt: tile.note ? `${tile.text}, ${tile.note}` : tile.text,
    hidden: true,
  });
  const nothing = el("p.nothing", { text: t("stage.nothing") });
  const strip = el("div.strip");
  const element = el(
    "figure.tile",
    {},
    el("div.frame", {}, picture, nothing),
    strip,
    el(
      "figcaption",
      {},
      ...marked(tile.text, tile.word),
      tile.note ? el("span.note", { text: tile.note }) : null,
    ),
  );
  let pictures = [];

  function update(news) {
    if (JSON.stringify(news) === JSON.stringify(pictures)) return;
    pictures = news;
    const several = Math.min(STRIP, pictures.length);
    strip.replaceChildren(
      ...(tile.still || how.plain || several < 2
        ? []
        : Array.from({ length: several }, (_, i) => {
            const one = pictures[Math.round((i * (pictures.length - 1)) / (several - 1))];
            return el("img", {
              src: one.url,
              alt: "",
              title: t("stage.step", { step: one.step }),
              "data-step": one.step,
              onclick: () => choose(one.step),
            });
          })),
    );
  }

  function show(step) {
    const one = tile.still ? pictures[0] : pictures.findLast((each) => each.step <= step);
    picture.hidden = !one;
    nothing.hidden = Boolean(one);
    if (one && picture.getAttribute("src") !== one.url) picture.src = one.url;
    const small = [...strip.children];
    const current = small.findLast((each) => Number(each.dataset.step) <= step);
    for (const each of small) each.classList.toggle("current", each === current);
  }
  return { element, update, show };
}
