/** The page of all words: cards, search, queue, and comparing. */

import { call } from "./api.js";
import { makeCard } from "./cards.js";
import { openCompare } from "./compare.js";
import { arrange, byId, debounced } from "./dom.js";
import { makeExample } from "./example.js";
import { setAway } from "./events.js";
import { act, report } from "./notices.js";
import { askForWord, askForText } from "./open.js";
import { makeQueue } from "./queue.js";
import { isBusy } from "./states.js";
import { count, language, t } from "./texts.js";

const OFTEN = 2000;
const SELDOM = 10000; // milliseconds between looks at the server
const STATES = ["running", "starting", "stopping", "queued", "failed", "killed", "stopped", "draft", "ended"];

const cards = new Map();
const chosen = new Set();
let words = [];
let last = "";
let timer = 0;
const queue = makeQueue(byId("queue"), () => look());

const orders = {
  changed: (a, b) => String(b.changed).localeCompare(String(a.changed), "en", { numeric: true }),
  token: (a, b) => a.token.localeCompare(b.token, language, { numeric: true }),
  state: (a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state) || orders.changed(a, b),
};

function show() {
  const wanted = byId("search").value.trim().toLocaleLowerCase(language);
  const found = words.filter((word) => word.token.toLocaleLowerCase(language).includes(wanted));
  found.sort(orders[byId("sort").value]);
  for (const word of found) {
    if (!cards.has(word.id)) cards.set(word.id, makeCard({ choose, gone: () => look() }));
    cards.get(word.id).update(word);
  }
  arrange(
    byId("words"),
    found.map((word) => cards.get(word.id).element),
  );
  byId("empty").hidden = words.length > 0;
  byId("sift").hidden = words.length < 2;
  byId("none").textContent =
    words.length && !found.length ? t("words.none", { text: byId("search").value.trim() }) : "";
}

function choose(word, on) {
  if (on) chosen.add(word.id);
  else chosen.delete(word.id);
  byId("compare-bar").hidden = chosen.size === 0;
  byId("compare").disabled = chosen.size < 2;
  byId("compare-count").textContent =
    chosen.size < 2 ? t("compare.more") : count("compare.chosen", chosen.size);
}

async function look() {
  clearTimeout(timer);
  try {
    const [found, order] = await Promise.all([call("GET", "/words"), call("GET", "/queue")]);
    setAway(false);
    const news = JSON.stringify([found, order]);
    if (news !== last) {
      last = news;
      words = found;
      for (const id of [...chosen]) if (!words.some((word) => word.id === id)) choose({ id }, false);
      show();
      queue.update(order, words);
    }
  } catch (error) {
    if (error.status === 0) setAway(true);
    else report(error);
  }
  clearTimeout(timer);
  const busy = words.some((word) => isBusy(word.state) || word.state === "queued");
  timer = setTimeout(() => (document.hidden ? undefined : look()), busy ? OFTEN : SELDOM);
}

function clearChosen() {
  for (const id of [...chosen]) cards.get(id)?.unchoose();
}

byId("search").addEventListener("input", debounced(show, 120));
byId("sort").addEventListener("change", show);
byId("new").addEventListener("click", askForWord);
byId("first").addEventListener("click", askForWord);
byId("open").addEventListener("click", askForText);
byId("example").addEventListener("click", (event) => act(event.currentTarget, makeExample));
byId("compare").addEventListener("click", (event) =>
  act(event.currentTarget, () => openCompare(words.filter((word) => chosen.has(word.id)))),
);
byId("compare-clear").addEventListener("click", clearChosen);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) look();
});
look();
