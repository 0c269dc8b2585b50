/** The file doctor: what an embedding is, where it works, and other forms of it. */

import { call, put } from "./api.js";
import { byId, el } from "./dom.js";
import { makeExamination } from "./examination.js";
import { act, ask, report, showProblems, toast } from "./notices.js";
import { size, t } from "./texts.js";
import { droppedFiles } from "./upload.js";

const LARGEST = 64 * 2 ** 20; // bytes of an embedding, as the server has it
let files = [];
let models = [];
let open = null;

function show() {
  byId("none").hidden = files.length > 0;
  byId("list").replaceChildren(
    ...files.map((file) => {
      const remove = el("button.small.plain.icon", {
        type: "button",
        text: "✕",
        "aria-label": t("files.delete", { name: file.name }),
        hidden: file.source !== "dropped",
        onclick: () => act(remove, () => erase(file)),
      });
      return el(
        "li",
        {},
        el(
          "button.patient",
          { type: "button", "aria-pressed": String(file.id === open), onclick: () => examine(file.id) },
          el("b", { text: file.name }),
          el("span.soft", {
            text: [file.bytes === undefined ? "" : size(file.bytes), file.place].filter(Boolean).join(" · "),
          }),
        ),
        remove,
      );
    }),
  );
}

async function erase(file) {
  if (!(await ask(t("files.delete.ask", { name: file.name }), t("delete")))) return;
  await call("DELETE", `/files/${file.id}`);
  if (open === file.id) {
    open = null;
    byId("chart").replaceChildren();
  }
  await load();
}

function examine(id) {
  open = id;
  show();
  const file = files.find((one) => one.id === id);
  const examination = makeExamination(file, { files, models, changed: load });
  byId("chart").replaceChildren(examination.element);
  examination.begin();
}

async function load() {
  files = await call("GET", "/files");
  show();
}

async function add(dropped) {
  let last = null;
  for (const file of dropped) {
    if (file.size > LARGEST) {
      showProblems([{ what: t("drop.large", { most: size(LARGEST) }), where: file.name }]);
      continue;
    }
    const answer = await act(byId("choose"), () => put(`/files?name=${encodeURIComponent(file.name)}`, file));
    if (answer) {
      last = answer.file.id;
      toast(t("files.added", { name: file.name }));
    }
  }
  await load();
  if (last) examine(last);
}

const drop = byId("drop");
addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  try {
    await add(await droppedFiles(event.dataTransfer));
  } catch (error) {
    report(error);
  }
});
byId("choose").addEventListener("click", () => byId("input").click());
byId("input").addEventListener("change", (event) => {
  const chosen = [...event.target.files];
  event.target.value = "";
  add(chosen).catch(report);
});

async function begin() {
  try {
    models = await call("GET", "/models");
    await load();
  } catch (error) {
    report(error);
  }
}
begin();
