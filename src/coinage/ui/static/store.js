/** The word that is edited: saved as one types, and looked at again, since another browser may change it. */

import { call } from "./api.js";
import { debounced } from "./dom.js";
import { setAway } from "./events.js";
import { clearProblems, report, showProblems, toast } from "./notices.js";
import { t } from "./texts.js";

const PAUSE = 500; // milliseconds without typing, after which it is saved
const LOOK = 15000; // between looks at what others have changed

/**
 * @typedef {{word: Object, set: function(Object): void, flush: function(): Promise<void>,
 *   load: function(): Promise<void>, take: function(Object): void, pending: function(string): boolean,
 *   also: function(function(): Promise<any>): void}} Store `flush` saves what waits, also what `also` names
 */

/**
 * Make the store of a word.
 * @param {string} id
 * @param {{changed: function(Object): void, saving: function("waiting"|"saved"|"failed"): void}} tell
 * @returns {Store}
 */
export function makeStore(id, tell) {
  let unsaved = {};
  let sent = {};
  let running = Promise.resolve();
  const store = { word: null };

  const later = debounced(() => {
    running = running.then(save);
  }, PAUSE);

  async function save() {
    sent = unsaved;
    unsaved = {};
    if (!Object.keys(sent).length) return;
    try {
      const answer = await call("PATCH", `/words/${id}`, sent);
      clearProblems("form");
      const before = store.word?.form ?? {};
      const others = Object.keys(answer.form).filter(
        (key) => !(key in sent) && !same(answer.form[key], before[key]),
      );
      if (store.word && others.length) toast(t("edit.elsewhere"));
      sent = {};
      store.take(answer);
      tell.saving(Object.keys(unsaved).length ? "waiting" : "saved");
    } catch (error) {
      tell.saving("failed");
      if (error.status === 0) {
        // kept, and sent again once the server answers
        unsaved = { ...sent, ...unsaved };
        setAway(true);
        setTimeout(() => later(), 3000);
      } else if (error.problems) showProblems(error.problems, "form");
      else report(error);
      sent = {};
    }
  }

  store.set = (part) => {
    unsaved = { ...unsaved, ...part };
    tell.saving("waiting");
    later();
  };
  const others = [];
  store.also = (save) => others.push(save);
  store.flush = async () => {
    later.now();
    await Promise.all([running, ...others.map((save) => save())]);
  };
  store.pending = (key) => key in unsaved || key in sent;
  store.take = (word) => {
    store.word = word;
    tell.changed(word);
  };
  store.load = async () => store.take(await call("GET", `/words/${id}`));

  async function look() {
    if (document.hidden || !store.word || Object.keys(unsaved).length || Object.keys(sent).length) return;
    try {
      const news = await call("GET", `/words/${id}`);
      setAway(false);
      if (Object.keys(unsaved).length || same(news, store.word)) return;
      const others = !same(news.form, store.word.form) || !same(news.images, store.word.images);
      store.take(news);
      if (others) toast(t("edit.elsewhere"));
    } catch (error) {
      if (error.status === 0) setAway(true);
      else report(error);
    }
  }
  setInterval(look, LOOK);
  addEventListener("focus", look);
  addEventListener("pagehide", () => {
    if (Object.keys(unsaved).length)
      call("PATCH", `/words/${id}`, unsaved, { keepalive: true }).catch(() => {});
  });
  return store;
}

function same(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}
