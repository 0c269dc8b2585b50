/** The form of a word: its images and captions, choices, settings, check and start. */

import { call } from "./api.js";
import { makeCaptionTools } from "./captions.js";
import { makeChoices } from "./choices.js";
import { makeDescriber } from "./describe.js";
import { byId, el } from "./dom.js";
import { makeFlags } from "./flags.js";
import { makeSheet } from "./images.js";
import { report } from "./notices.js";
import { askForText, takeNotes } from "./open.js";
import { makeRepeat } from "./repeat.js";
import { makeStart } from "./start.js";
import { isBusy, known } from "./states.js";
import { makeStore } from "./store.js";
import { language, number, t } from "./texts.js";
import { makeUploads } from "./upload.js";

const id = document.body.dataset.word;
const store = makeStore(id, { changed, saving });
const choices = makeChoices(store);
const sheet = makeSheet(id, store);
const tools = makeCaptionTools(byId("caption-tools"), id, store);
const describer = makeDescriber(byId("caption-tools"), id, store);
const flags = makeFlags(byId("flags"), byId("flag-count"), store);
const repeat = makeRepeat(byId("repeat"));
makeUploads(id, store);
makeStart(id, store, (found) => sheet.showFindings(found));

function changed(word) {
  const images = word.images ?? [];
  byId("title").lastChild.textContent = word.form.token;
  document.title = `${word.form.token} – Coinage`;
  byId("image-count").textContent = images.length ? number(images.length) : "";
  byId("image-tools").hidden = !images.length;
  const run = byId("to-run");
  run.hidden = known(word.job?.state) === "draft";
  run.href = `/words/${id}`;
  choices.update(word.form);
  sheet.update(images, word.form);
  tools.update(images);
  flags.update(word.form.flags ?? {});
  repeat.update(word);
  showMissing(word.problems ?? []);
  for (const name of ["start-now", "start-queue", "start-tonight"])
    byId(name).disabled = isBusy(word.job?.state);
}

/** What keeps it from starting, as far as the form shows it. */
function showMissing(problems) {
  byId("missing").replaceChildren(
    ...problems.map((problem) =>
      el("li", { lang: "en" }, `${problem.what}${problem.hint ? `: ${problem.hint}` : ""}`),
    ),
  );
}

function saving(state) {
  byId("saved").textContent = {
    waiting: t("edit.saving"),
    saved: t("edit.saved"),
    failed: t("edit.unsaved"),
  }[state];
}

byId("title").append("");
byId("notes").append(
  ...takeNotes(id).map((note) => el("p.note-line", { lang: "en", text: note.what ?? note })),
);
byId("open").addEventListener("click", askForText);
byId("show-crops").addEventListener("change", (event) => sheet.showCrops(event.target.checked));

async function begin() {
  try {
    await store.load();
    const [models, all, captioners] = await Promise.all([
      call("GET", "/models"),
      call("GET", `/flags?lang=${language}`),
      call("GET", "/captioners"),
    ]);
    choices.setModels(models);
    flags.setFlags(all);
    describer.setCaptioners(captioners);
  } catch (error) {
    report(error);
  }
}
begin();
