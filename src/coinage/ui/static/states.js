/** A word's states: their names, and what can be done in each. */

import { el } from "./dom.js";
import { count, duration, t } from "./texts.js";

const NAMES = {
  draft: "state.draft",
  queued: "state.queued",
  starting: "state.starting",
  running: "state.running",
  stopping: "state.stopping",
  ended: "state.ended",
  stopped: "state.stopped",
  failed: "state.failed",
  killed: "state.killed",
};
const BUSY = ["starting", "running", "stopping"];

/**
 * @param {string|null|undefined} state as the server has it
 * @returns {string} one that has a name; `draft` for a word that was never started
 */
export function known(state) {
  return state in NAMES ? state : "draft";
}

/** @param {string|null|undefined} state @returns {string} */
function stateName(state) {
  return t(NAMES[known(state)]);
}

/** @param {string|null|undefined} state @returns {boolean} whether a process works on it */
export function isBusy(state) {
  return BUSY.includes(state);
}

/** @param {string|null|undefined} state @returns {boolean} whether a run is over, in whatever way */
export function isOver(state) {
  return ["ended", "stopped", "failed", "killed"].includes(state);
}

/**
 * A light with the state's name.
 * @param {string|null|undefined} state
 * @returns {HTMLElement}
 */
export function statusLine(state) {
  const name = known(state);
  return el(
    "p",
    { class: `status state-${name}` },
    el("span.light", { "aria-hidden": "true" }),
    el("span", { text: stateName(name) }),
  );
}

/**
 * A bar of a run's progress with the time that is left.
 * @param {{step?: number, total?: number, seconds_left?: number}} progress
 * @param {string} label
 * @returns {HTMLElement}
 */
export function progressBar(progress, label) {
  const { step = 0, total } = progress;
  const bar = el("progress", { "aria-label": label });
  if (total) {
    bar.max = total;
    bar.value = Math.min(step, total);
  }
  return bar;
}

/** @param {{step?: number, total?: number, seconds_left?: number}} progress @returns {string} */
export function progressText(progress) {
  const parts = [];
  if (progress.total) parts.push(t("step.of", { step: progress.step ?? 0, total: progress.total }));
  else if (progress.step) parts.push(count("step", progress.step));
  if (Number.isFinite(progress.seconds_left))
    parts.push(t("time.left", { time: duration(progress.seconds_left) }));
  return parts.join(" · ");
}
