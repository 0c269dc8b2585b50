/** Bring images to the server: dropped, pasted or chosen, whole folders too; three at a time. */

import { put } from "./api.js";
import { byId, el, throttled } from "./dom.js";
import { report } from "./notices.js";
import { count, size, t } from "./texts.js";

const AT_ONCE = 3;
const CAPTIONS = /\.(txt|caption|json|jsonl)$/i;
const HIDDEN = /^\.|^(thumbs\.db|desktop\.ini)$/i;
const LARGEST = 100 * 2 ** 20; // bytes of an image, as the server has it
const HOPELESS = [0, 507]; // HTTP: no answer, the disk is full

/**
 * Listen for files on the page.
 * @param {string} id of the word
 * @param {import("./store.js").Store} store
 */
export function makeUploads(id, store) {
  const drop = byId("drop");
  const shown = byId("uploads");
  let running = Promise.resolve();
  let batches = 0;
  let total = 0;
  let done = 0;
  let good = 0;
  let failures = [];

  /** Send files after those that are being sent; captions after the images that they belong to. */
  function add(files) {
    const seen = files.filter((file) => !HIDDEN.test(file.name));
    if (!seen.length) return;
    if (!batches) {
      total = done = good = 0;
      failures = [];
    }
    batches += 1;
    total += seen.length;
    show();
    running = running.then(() => batch(seen)).catch(report);
  }

  async function batch(files) {
    await send(
      files.filter((file) => !CAPTIONS.test(file.name)),
      "images",
    );
    await send(
      files.filter((file) => CAPTIONS.test(file.name)),
      "captions",
    );
    batches -= 1;
    await store.load();
    show();
  }

  async function send(files, what) {
    const waiting = [...files];
    const work = async () => {
      while (waiting.length) {
        const file = waiting.shift();
        try {
          if (file.size > LARGEST) throw new Error(t("drop.large", { most: size(LARGEST) }));
          const { image } = await put(`/words/${id}/${what}?name=${encodeURIComponent(file.name)}`, file);
          good += 1;
          if (image) {
            store.word.images = [...store.word.images, image];
            showSome();
          }
        } catch (error) {
          failures.push([
            file.name,
            error.problems ? error.problems.map(told).join("; ") : String(error.message),
          ]);
          if (HOPELESS.includes(error.status)) {
            for (const rest of waiting.splice(0)) {
              failures.push([rest.name, t("drop.not.sent")]);
              done += 1;
            }
          }
        }
        done += 1;
        show();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  }

  const showSome = throttled(() => store.take(store.word), 300);

  function show() {
    shown.hidden = !total;
    const busy = batches > 0;
    const parts = [el("p", { text: busy ? t("drop.sending", { done, total }) : count("drop.sent", good) })];
    if (busy) parts.push(el("progress", { max: total, value: done, "aria-label": t("drop.progress") }));
    else if (failures.length) {
      parts.push(
        el(
          "div.problem",
          {},
          el("strong", { text: count("drop.failed", failures.length) }),
          el("ul", {}, ...failures.map(([name, why]) => el("li", { text: `${name}: ${why}` }))),
          el("button.small.plain.icon", {
            type: "button",
            text: "✕",
            "aria-label": t("close"),
            onclick: () => {
              failures = [];
              show();
            },
          }),
        ),
      );
    }
    shown.replaceChildren(...parts);
  }

  const takes = (event) =>
    event.dataTransfer.types.includes("Files") && !document.querySelector("dialog[open]");
  for (const name of ["dragenter", "dragover"]) {
    addEventListener(name, (event) => {
      if (!takes(event)) return;
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  addEventListener("drop", async (event) => {
    drop.classList.remove("over");
    if (!takes(event)) return;
    event.preventDefault();
    try {
      add(await droppedFiles(event.dataTransfer));
    } catch (error) {
      report(error);
    }
  });
  addEventListener("paste", (event) => add([...(event.clipboardData?.files ?? [])]));
  for (const [button, input] of [
    ["choose-files", "files"],
    ["choose-folder", "folder"],
  ]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", (event) => {
      const files = [...event.target.files];
      event.target.value = "";
      add(files);
    });
  }
}

function told({ what, hint }) {
  return hint ? `${what} (${hint})` : what;
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
  if (entry.isFile)
    return [
      await new Promise((resolve, reject) => {
        entry.file(resolve, reject);
      }),
    ];
  const reader = entry.createReader();
  const files = [];
  for (;;) {
    // a reader gives a hundred entries at most
    const some = await new Promise((resolve, reject) => {
      reader.readEntries(resolve, reject);
    });
    if (!some.length) return files;
    files.push(...(await Promise.all(some.map(filesIn))).flat());
  }
}
