/** What a run has printed, and the warnings in it. */

import { el } from "./dom.js";
import { t } from "./texts.js";

const MOST = 2000; // lines that are kept in the page
const NEAR = 40; // pixels from the end, at which it follows

/**
 * @param {HTMLElement} place of all lines
 * @param {HTMLElement} warned of the warnings
 * @returns {{add: function(string|string[]): void, clear: function(): void}}
 */
export function makeRunLog(place, warned) {
  const warnings = new Set();
  let last = null; // the warning whose further lines may follow

  function add(text) {
    const lines = Array.isArray(text) ? text : String(text).split("\n");
    const follows = place.scrollHeight - place.scrollTop - place.clientHeight < NEAR;
    place.append(...lines.map((line) => el("span.line", { text: `${line}\n`, class: `line ${tone(line)}` })));
    while (place.children.length > MOST) place.firstChild.remove();
    if (follows) place.scrollTop = place.scrollHeight;
    for (const line of lines) warn(line);
  }

  function warn(line) {
    const isMore = last && /^(hint: |\s+-->)/.test(line);
    if (isMore) last.append(`\n${line.trim()}`);
    else last = null;
    if (!line.startsWith("warning: ")) return;
    const what = line.slice("warning: ".length);
    if (warnings.has(what)) return;
    warnings.add(what);
    last = el("p.warning", { lang: "en", text: what });
    warned.append(last);
  }

  function clear() {
    place.replaceChildren();
    warned.replaceChildren();
    warnings.clear();
    last = null;
  }
  place.setAttribute("aria-label", t("run.log"));
  return { add, clear };
}

function tone(line) {
  if (line.startsWith("error: ")) return "bad";
  return line.startsWith("warning: ") ? "care" : "";
}
