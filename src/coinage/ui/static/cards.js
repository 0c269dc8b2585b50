/** A word's card: its newest picture, state, and what can be done with it. */

import { call } from "./api.js";
import { el } from "./dom.js";
import { act, ask, toast } from "./notices.js";
import { isBusy, known, progressBar, progressText, statusLine } from "./states.js";
import { t } from "./texts.js";

/**
 * Return where a word's page is: the form of one that was never started, else its run; of one that was found
 * in the folder its report, or the file doctor.
 * @param {{id: string, state: string|null, source?: string, report?: string|null}} word
 * @returns {string}
 */
function pageOf(word) {
  if (word.source === "found") return word.report ?? "/files";
  return known(word.state) === "draft" ? `/words/${word.id}/edit` : `/words/${word.id}`;
}

/**
 * Make an empty card.
 * @param {{choose: function(Object, boolean): void, gone: function(): void}} tell
 * @returns {{element: HTMLElement, update: function(Object): void, unchoose: function(): void}}
 */
export function makeCard(tell) {
  let word = null;
  const picture = el("div.shown");
  const link = el("a");
  const about = el("div.about");
  const box = el("input", { type: "checkbox", onchange: () => tell.choose(word, box.checked) });
  const pick = el("label.pick", {}, box);
  const remove = el("button.small.plain.icon", {
    type: "button",
    text: "✕",
    onclick: () => act(remove, erase),
  });
  const element = el("li.word", {}, picture, el("div.under", {}, el("h2", {}, link), about), pick, remove);

  async function erase() {
    if (!(await ask(t("word.delete.ask", { token: word.token }), t("delete")))) return;
    await call("DELETE", `/words/${word.id}`);
    toast(t("word.deleted", { token: word.token }));
    tell.gone();
  }

  function update(news) {
    if (JSON.stringify(news) === JSON.stringify(word)) return;
    word = news;
    link.href = pageOf(word);
    link.textContent = word.token;
    box.setAttribute("aria-label", t("compare.pick", { token: word.token }));
    remove.setAttribute("aria-label", t("word.delete", { token: word.token }));
    pick.hidden = word.source === "found";
    remove.hidden = isBusy(word.state) || word.source === "found";
    showPicture();
    const running = isBusy(word.state);
    about.replaceChildren(
      statusLine(word.state),
      ...(running ? [progressBar(word, t("progress.of", { token: word.token }))] : []),
    );
    const text = running || word.state === "stopped" ? progressText(word) : word.reason;
    if (text) about.append(el("p.soft.reason", { text }));
  }

  function showPicture() {
    const now = picture.querySelector("img");
    if (!word.preview) {
      picture.replaceChildren(el("span.letter", { "aria-hidden": "true", text: [...word.token][0] ?? "" }));
    } else if (now?.getAttribute("src") !== word.preview) {
      picture.replaceChildren(el("img", { src: word.preview, alt: "", loading: "lazy", decoding: "async" }));
    }
  }

  const unchoose = () => {
    box.checked = false;
    tell.choose(word, false);
  };
  return { element, update, unchoose };
}
