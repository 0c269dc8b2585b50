/** Listen to the server's news; a connection that breaks is made again by itself. */

import { byId, el } from "./dom.js";
import { t } from "./texts.js";

const RETRY = 2000; // milliseconds

/**
 * Listen to server-sent events with JSON in them.
 * @param {string} path below `/api`
 * @param {Object<string, function(any): void>} listeners by the event's name
 * @param {{done?: function(): boolean}} [how] no new connection is made once `done` is true
 * @returns {{close: function(): void}}
 */
export function listen(path, listeners, how = {}) {
  let source = null;
  let timer = 0;
  let closed = false;

  const open = () => {
    source = new EventSource(`/api${path}`);
    source.addEventListener("open", () => setAway(false));
    source.addEventListener("error", lost);
    for (const [name, hear] of Object.entries(listeners)) {
      source.addEventListener(name, (event) => hear(JSON.parse(event.data)));
    }
  };
  const lost = () => {
    if (closed) return;
    if (how.done?.()) return close();
    setAway(true);
    // The browser tries again by itself, and says how far it has come, unless the server has refused it.
    if (source.readyState === EventSource.CLOSED) {
      clearTimeout(timer);
      timer = setTimeout(open, RETRY);
    }
  };
  const close = () => {
    closed = true;
    clearTimeout(timer);
    source.close();
    setAway(false);
  };
  addEventListener("pagehide", () => {
    closed = true;
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });
  open();
  return { close };
}

/**
 * Say that the server does not answer, as long as it does not.
 * @param {boolean} away
 */
export function setAway(away) {
  const shown = byId("away");
  if (away && !shown) {
    byId("alerts").append(el("p.warning", { id: "away", text: `${t("away.what")} ${t("away.again")}` }));
  } else if (!away) shown?.remove();
}
