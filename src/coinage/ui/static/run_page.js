/** The page of a run: how far it is, what it draws and learns, and what can be done. */

import { makeActions } from "./actions.js";
import { call } from "./api.js";
import { makeChart } from "./chart.js";
import { byId, el, throttled } from "./dom.js";
import { listen } from "./events.js";
import { report } from "./notices.js";
import { pictureOf, previewGroups } from "./previews.js";
import { makeRunLog } from "./run_log.js";
import { makeStage } from "./slider.js";
import { isBusy, isOver, known, progressBar, progressText, statusLine } from "./states.js";
import { duration, number, size, t } from "./texts.js";

const PHASES = {
  loading: t("phase.loading"),
  encoding: t("phase.encoding"),
  previews: t("phase.previews"),
  verifying: t("phase.verifying"),
};
const id = document.body.dataset.word;
const stage = makeStage();
const loss = makeChart(t("run.loss"), "", 0, { smooth: true });
const angle = makeChart(t("run.angle"), "°", 1);
const log = makeRunLog(byId("log"), byId("warnings"));
const actions = makeActions(byId("actions"), id, () => load());
const steps = new Map();
let word = null;
let job = {};
let progress = {};
let shownState = "";

function showJob() {
  const state = known(job.state);
  if (state !== shownState) {
    shownState = state;
    byId("state").replaceChildren(statusLine(state));
    load();
  }
  const token = word?.form?.token ?? "";
  byId("title").lastChild.textContent = token;
  const share = progress.total ? Math.floor((100 * (progress.step ?? 0)) / progress.total) : null;
  document.title = `${isBusy(state) && share !== null ? `${share} % ` : ""}${token} – Coinage`;
  showBar(state, token);
  showFacts();
  byId("why").replaceChildren(
    ...(job.reason && !isBusy(state)
      ? [
          el("p", {
            class: state === "failed" || state === "killed" ? "problem" : "note-line",
            text: job.reason,
          }),
        ]
      : []),
  );
  actions.update(job, progress);
  showNext(state);
}

function showBar(state, token) {
  const bar = byId("bar");
  if (!isBusy(state) && !(state === "stopped" && progress.total)) {
    bar.replaceChildren();
    return;
  }
  const now = bar.querySelector("progress") ?? progressBar(progress, t("progress.of", { token }));
  const text = bar.querySelector("p") ?? el("p.soft");
  if (progress.total) {
    now.max = progress.total;
    now.value = Math.min(progress.step ?? 0, progress.total);
  }
  const phase = isBusy(state) ? PHASES[progress.phase] : "";
  text.textContent = [
    phase,
    progressText(isBusy(state) ? progress : { ...progress, seconds_left: undefined }),
  ]
    .filter(Boolean)
    .join(" · ");
  if (!bar.children.length) bar.append(now, text);
}

function showFacts() {
  const facts = [];
  if (Number.isFinite(progress.loss)) facts.push([t("run.loss"), number(progress.loss, 3)]);
  if (Number.isFinite(progress.angle)) facts.push([t("run.angle"), `${number(progress.angle, 3)}°`]);
  if (Number.isFinite(progress.images_per_second) && isBusy(job.state))
    facts.push([t("run.speed"), t("run.speed.value", { n: number(progress.images_per_second, 3) })]);
  if (job.started) {
    facts.push([t("run.time"), duration((job.ended ?? Date.now() / 1000) - job.started)]);
  }
  byId("facts").replaceChildren(
    ...facts.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }))),
  );
}

function showNext(state) {
  const files = word?.files ?? [];
  byId("next").hidden = state !== "ended" || !files.length;
  if (byId("next").hidden) return;
  byId("next-steps").replaceChildren(
    el("li", {}, el("a", { href: `/try?word=${id}`, text: t("next.try", { token: word.form.token }) })),
    el(
      "li",
      {},
      el("a", {
        href: addressOf(files[0]),
        download: true,
        text: t("next.download", { name: files[0].name }),
      }),
    ),
    el("li", { text: t("next.put") }),
    word.report
      ? el(
          "li",
          {},
          el("a", {
            href: `/api/words/${id}/report`,
            target: "_blank",
            rel: "noopener",
            text: t("next.report"),
          }),
        )
      : "",
  );
}

function showFiles() {
  const files = word.files ?? [];
  byId("files-section").hidden = !files.length && !word.report;
  byId("files").replaceChildren(
    ...files.map((file) =>
      el(
        "li",
        {},
        el("a", { href: addressOf(file), download: true, text: file.name }),
        el("span.soft", { text: Number.isFinite(file.bytes) ? size(file.bytes) : "" }),
      ),
    ),
    ...(word.report
      ? [
          el(
            "li",
            {},
            el("a", {
              href: `/api/words/${id}/report`,
              target: "_blank",
              rel: "noopener",
              text: t("run.report"),
            }),
            el("span.soft", { text: t("run.report.new") }),
          ),
        ]
      : []),
  );
}

function addressOf(file) {
  return `/api/words/${id}/files/${encodeURIComponent(file.id)}`;
}

function showPreviews(previews) {
  const token = word?.form?.token ?? "";
  const groups = previewGroups(id, previews).map((group) =>
    group.map((row) => ({
      ...row,
      word: token,
      note: row.without ? t("stage.without") : "",
      still: row.without,
    })),
  );
  byId("no-previews").hidden = groups.length > 0;
  byId("no-previews").textContent = t(isOver(job.state) ? "run.previews.never" : "run.previews.none");
  stage.update(groups);
  const kept = previews.filter((one) => one.kept);
  byId("kept").hidden = !kept.length;
  byId("kept-pictures").replaceChildren(
    ...kept.map((one) =>
      el("img", { src: pictureOf(id, one.file), alt: one.text || t("run.kept.one"), loading: "lazy" }),
    ),
  );
}

const drawCurves = throttled(() => {
  const lines = [...steps.values()].sort((a, b) => a.step - b.step);
  loss.update(lines.filter((line) => Number.isFinite(line.loss)).map((line) => [line.step, line.loss]));
  angle.update(lines.filter((line) => line.angles?.length).map((line) => [line.step, mean(line.angles)]));
}, 100);

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

async function load() {
  try {
    word = await call("GET", `/words/${id}`);
    job = word.job ?? {};
    progress = word.progress ?? progress;
    showFiles();
    showPreviews(word.previews ?? []);
    showJob();
  } catch (error) {
    report(error);
  }
}

byId("previews").append(stage.element);
byId("charts").append(loss.element, angle.element);
byId("title").append("");
listen(`/words/${id}/events`, {
  job(news) {
    job = news;
    progress = news.progress ?? {};
    showJob();
  },
  reset(what) {
    if (what.steps) steps.clear();
    if (what.log) log.clear();
    drawCurves();
  },
  steps(lines) {
    // What is said of the images at the end is of no step, or has a line beside the last step's
    for (const line of lines)
      if (Number.isFinite(line.step)) steps.set(line.step, { ...steps.get(line.step), ...line });
    drawCurves();
  },
  previews: showPreviews,
  log: log.add,
});
load();
