/** Bring images to the server: dropped, pasted or chosen, whole folders too; three at a time. */

import { call, put } from "./api.js";
import { byId, el } from "./dom.js";
import { report } from "./notices.js";
import { count, t } from "./texts.js";

const AT_ONCE = 3;
const FULL = 507; // HTTP: the disk is full
const TEXTS = /\.(txt|caption)$/i;
const TAGS = /\.(json|csv)$/i;
const CAPTION_BYTES = 64 * 1024;
const HIDDEN = /^\.|^(thumbs\.db|desktop\.ini)$/i;

/**
 * Listen for files on the page.
 * @param {string} id of the word
 * @param {import("./store.js").Store} store
 */
export function makeUploads(id, store) {
  const drop = byId("drop");
  const shown = byId("uploads");
  let waiting = [];
  let total = 0;
  let done = 0;
  let good = 0;
  let failures = [];
  let workers = 0;

  async function add(files) {
    const { images, captions, tags, others } = sorted(files);
    if (!workers) {
      total = 0;
      done = 0;
      good = 0;
      failures = [];
    }
    for (const file of others) failures.push([file.name, t("drop.not.image")]);
    const more = images.map((file) => ({ file, caption: captions.get(stem(file.name)) }));
    // Captions that came without their image belong to images that are here already
    const sent = new Set(images.map((file) => stem(file.name)));
    for (const [name, file] of captions) if (!sent.has(name)) more.push({ file, alone: true });
    more.push(...tags.map((file) => ({ file, tags: true })));
    waiting.push(...more);
    total += more.length;
    show();
    if (!more.length) return;
    const free = AT_ONCE - workers;
    workers += free;
    await Promise.all(Array.from({ length: free }, work));
  }

  async function work() {
    while (waiting.length) {
      const next = waiting.shift();
      try {
        await send(next);
        good += 1;
      } catch (error) {
        failures.push([next.file.name, (error.problems ?? [{ what: String(error.message) }]).map((one) => one.what).join("; ")]);
        if (error.status === FULL || error.status === 0) {
          for (const rest of waiting.splice(0)) failures.push([rest.file.name, t("drop.not.sent")]);
        }
      }
      done += 1;
      show();
    }
    workers -= 1;
    if (!workers) {
      await store.load().catch(report);
      show();
    }
  }

  async function send({ file, caption, alone, tags }) {
    const name = encodeURIComponent(file.name);
    if (tags) return put(`/words/${id}/captions?name=${name}`, file);
    if (alone) {
      const image = store.word.images.find((one) => stem(one.name) === stem(file.name));
      if (!image) throw new Error(t("drop.no.image"));
      return call("PATCH", `/words/${id}/images/${image.id}`, { caption: await captionOf(file) });
    }
    const answer = await put(`/words/${id}/images?name=${name}`, file);
    if (caption) await call("PATCH", `/words/${id}/images/${answer.image.id}`, { caption: await captionOf(caption) });
    return answer;
  }

  function show() {
    shown.hidden = !total && !failures.length;
    const running = workers > 0;
    const parts = [];
    if (running || total) {
      const text = running ? t("drop.sending", { done, total }) : count("drop.sent", good);
      parts.push(el("p", { role: "status", text }));
    }
    if (running) parts.push(el("progress", { max: total, value: done, "aria-label": t("drop.progress") }));
    if (!running && failures.length) {
      parts.push(el("div.problem", { role: "alert" }, el("strong", { text: count("drop.failed", failures.length) }),
        el("ul", {}, ...failures.map(([name, why]) => el("li", { text: `${name}: ${why}` }))),
        el("button.small.plain.icon", { type: "button", text: "✕", "aria-label": t("close"), onclick: () => { failures = []; show(); } })));
    }
    shown.replaceChildren(...parts);
  }

  for (const name of ["dragenter", "dragover"]) {
    addEventListener(name, (event) => {
      if (![...event.dataTransfer.types].includes("Files") || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  addEventListener("drop", async (event) => {
    drop.classList.remove("over");
    if (document.querySelector("dialog[open]") || !event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    try {
      await add(await droppedFiles(event.dataTransfer));
    } catch (error) {
      report(error);
    }
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) add(files).catch(report);
  });
  for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", async (event) => {
      const files = [...event.target.files];
      event.target.value = "";
      await add(files).catch(report);
    });
  }
}

/**
 * Return all files that were dropped, also those in folders.
 * @param {DataTransfer} transfer
 * @returns {Promise<File[]>}
 */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map(filesIn))).flat();
}

async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => { entry.file(resolve, reject); })];
  const reader = entry.createReader();
  const files = [];
  for (;;) { // a reader gives a hundred entries at most
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!some.length) return files;
    files.push(...(await Promise.all(some.map(filesIn))).flat());
  }
}

function sorted(files) {
  const images = [];
  const captions = new Map();
  const tags = [];
  const others = [];
  for (const file of files) {
    if (HIDDEN.test(file.name)) continue;
    if (TEXTS.test(file.name)) captions.set(stem(file.name), file);
    else if (TAGS.test(file.name)) tags.push(file);
    else if (file.type === "" || file.type.startsWith("image/")) images.push(file);
    else others.push(file);
  }
  return { images, captions, tags, others };
}

async function captionOf(file) {
  if (file.size > CAPTION_BYTES) throw new Error(t("drop.long.caption"));
  return (await file.text()).trim();
}

function stem(name) {
  return name.replace(/\.[^.]*$/, "");
}
