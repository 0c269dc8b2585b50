/** Two or more words side by side: the same prompts under one slider, and the settings that differ. */

import { call } from "./api.js";
import { el } from "./dom.js";
import { openDialog } from "./notices.js";
import { previewGroups } from "./previews.js";
import { makeStage } from "./slider.js";
import { number, t } from "./texts.js";

/**
 * Open the comparison.
 * @param {{id: string}[]} words
 */
export async function openCompare(words) {
  const opened = await Promise.all(words.map((word) => call("GET", `/words/${word.id}`)));
  const stage = makeStage({ columns: opened.length, plain: true });
  const groups = sharedPrompts(opened);
  stage.update(groups);
  const close = el("button", { type: "button", text: t("close"), onclick: () => dialog.close() });
  const dialog = openDialog(
    t("compare.title"),
    [
      groups.length ? stage.element : el("p.soft", { text: t("compare.nothing") }),
      el("section.section", {}, el("h3", { text: t("compare.differ") }), differences(opened)),
      el("div.buttons.end", {}, close),
    ],
    { large: true },
  );
}

function sharedPrompts(opened) {
  const byPrompt = new Map();
  opened.forEach((word, run) => {
    const token = word.form?.token ?? word.id;
    for (const [first] of previewGroups(word.id, word.previews ?? [])) {
      const asked = first.text.replaceAll(token, "…"); // the same prompt of another word
      if (!byPrompt.has(asked)) byPrompt.set(asked, []);
      byPrompt.get(asked).push({ ...first, key: `${run} ${first.key}`, word: token, note: token });
    }
  });
  return [...byPrompt.values()].sort((a, b) => b.length - a.length);
}

function differences(opened) {
  const rows = new Map();
  const put = (name, at, value) => {
    if (!rows.has(name))
      rows.set(
        name,
        opened.map(() => ""),
      );
    rows.get(name)[at] = value === null || value === undefined ? "" : String(value);
  };
  opened.forEach(({ form = {}, progress, images }, at) => {
    put(t("form.model"), at, form.model);
    put(t("form.kind"), at, form.kind);
    put(t("form.vectors"), at, form.vectors);
    put(t("form.length"), at, form.length);
    put(t("form.images"), at, images?.length);
    put(t("run.step"), at, progress?.step);
    put(t("run.loss"), at, Number.isFinite(progress?.loss) ? number(progress.loss, 3) : null);
    for (const [name, value] of Object.entries(form.flags ?? {})) put(name, at, value);
  });
  const unlike = [...rows].filter(([, values]) => new Set(values).size > 1);
  if (!unlike.length) return el("p.soft", { text: t("compare.same") });
  const head = opened.map((word) => el("th", { scope: "col", text: word.form?.token ?? word.id }));
  return el(
    "div.scroll",
    { tabindex: 0, role: "group", "aria-label": t("compare.differ") },
    el(
      "table.differ",
      {},
      el("thead", {}, el("tr", {}, el("td", { text: "" }), ...head)),
      el(
        "tbody",
        {},
        ...unlike.map(([name, values]) =>
          el(
            "tr",
            {},
            el("th", { scope: "row", text: name }),
            ...values.map((value) => el("td", { text: value || "–" })),
          ),
        ),
      ),
    ),
  );
}
