/** Check a word as the command line does, and start it: now, in the queue, or tonight. */

import { call } from "./api.js";
import { byId, el } from "./dom.js";
import { act, clearProblems, problemList } from "./notices.js";
import { t } from "./texts.js";

// As the checks name them
const FACTS = {
  word: t("form.token"),
  data: t("form.images"),
  run: t("form.length"),
  output: t("check.output"),
  seed: t("check.seed"),
  memory: t("check.memory"),
  disk: t("check.disk"),
  time: t("run.time"),
};

/**
 * Bind the buttons.
 * @param {string} id of the word
 * @param {import("./store.js").Store} store
 * @param {function(Object): void} found takes the findings about images
 */
export function makeStart(id, store, found) {
  const result = byId("check-result");

  const check = (button) =>
    act(button, async () => {
      await store.flush();
      result.replaceChildren(el("p.soft", { text: t("check.running") }));
      try {
        const answer = await call("POST", `/words/${id}/check`);
        found(answer.images ?? {});
        show(answer);
      } catch (error) {
        result.replaceChildren();
        throw error;
      }
    });

  const start = (button, when) =>
    act(button, async () => {
      await store.flush();
      await call("POST", `/words/${id}/start`, { when });
      location.href = `/words/${id}`;
    });

  function show({ problems = [], warnings = [], notes = [], facts = [] }) {
    clearProblems("action");
    const told = problems.length
      ? el("div.problem", {}, problemList(problems))
      : el("p.good", { text: t(warnings.length ? "check.warned" : "check.good") });
    result.replaceChildren(
      told,
      ...warnings.map((one) =>
        el(
          "div.warning",
          {},
          el("strong", { text: one.what ?? one }),
          one.where ? el("p.soft", { text: one.where }) : null,
          one.hint ? el("p", { text: one.hint }) : null,
        ),
      ),
      ...notes.map((note) => el("p.note-line", { text: note.what ?? note })),
      facts.length
        ? el(
            "dl.facts",
            {},
            ...facts.map(([name, value]) =>
              el("div", {}, el("dt", { text: FACTS[name] ?? name }), el("dd", { lang: "en", text: value })),
            ),
          )
        : "",
    );
  }

  byId("check").addEventListener("click", (event) => check(event.currentTarget));
  for (const when of ["now", "queue", "tonight"]) {
    byId(`start-${when}`).addEventListener("click", (event) => start(event.currentTarget, when));
  }
}
