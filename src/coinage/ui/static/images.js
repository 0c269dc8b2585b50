/** The images of a word: each with its caption, its findings, its crop and its mask. */

import { call } from "./api.js";
import { makeCaption } from "./captions.js";
import { cropPicture } from "./crops.js";
import { arrange, byId, el } from "./dom.js";
import { openMask } from "./mask.js";
import { act, report, toast } from "./notices.js";
import { t } from "./texts.js";
import { countTokens } from "./tokens.js";

/**
 * Make the sheet of images.
 * @param {string} id of the word
 * @param {import("./store.js").Store} store
 */
export function makeSheet(id, store) {
  const cards = new Map();
  const hidden = new Set(); // deleted, but not on the server yet
  let crops = false;
  let found = {};
  let form = {};
  let images = [];
  const counter = countTokens(() => ({ word: form.token, vectors: form.vectors, model: form.model }));

  store.also(() => Promise.all([...cards.values()].map((card) => card.flush())));

  function update(news, nextForm) {
    const asked =
      form.token !== nextForm.token || form.vectors !== nextForm.vectors || form.model !== nextForm.model;
    images = news;
    form = nextForm;
    const shown = images.filter((image) => !hidden.has(image.id));
    for (const image of shown) {
      if (!cards.has(image.id)) cards.set(image.id, makeCard(image));
      cards.get(image.id).update(image, form.token);
    }
    arrange(
      byId("sheet"),
      shown.map((image) => cards.get(image.id).element),
    );
    if (asked) for (const card of cards.values()) card.recount();
  }

  function makeCard(image) {
    const address = `/api/words/${id}/images/${image.id}`;
    const picture = el("img", {
      src: `${address}/thumb`,
      alt: image.name,
      loading: "lazy",
      decoding: "async",
    });
    const over = el("div.over");
    const findings = el("ul.findings");
    const mask = el("button.small", { type: "button" });
    const remove = el("button.small.plain", {
      type: "button",
      text: t("delete"),
      "aria-label": t("image.delete", { name: image.name }),
      onclick: () => erase(image),
    });
    const caption = makeCaption(image, counter, async (text) => {
      const answer = await call("PATCH", `/words/${id}/images/${image.id}`, { caption: text });
      const listed = store.word.images;
      store.word.images = listed.map((one) => (one.id === image.id ? answer.image : one));
    });
    const size = el("p.soft.size");
    const element = el(
      "li.photo",
      {},
      el("div.view", {}, picture, over),
      el("div.text", {}, caption.element, findings, size, el("div.foot", {}, mask, remove)),
    );
    let now = image;
    mask.addEventListener("click", () =>
      act(mask, () =>
        openMask({
          address,
          image: now,
          saved: (has) => {
            now = { ...now, mask: has };
            store.load().catch(report);
          },
        }),
      ),
    );

    function update(news, token) {
      now = news;
      caption.update(news.caption ?? "", token);
      size.textContent = `${news.name} · ${news.width} × ${news.height}`;
      mask.textContent = t(news.mask ? "mask.edit" : "mask.make");
      mask.setAttribute("aria-label", `${mask.textContent}: ${news.name}`);
      mask.classList.toggle("has", Boolean(news.mask));
      showFound();
    }
    function showFound() {
      const about = found[now.id] ?? {};
      findings.replaceChildren(
        ...(about.findings ?? []).map((one) => el("li", { text: typeof one === "string" ? one : one.what })),
      );
      over.replaceChildren(...(crops && about.crop ? [cropPicture(now, about)] : []));
    }
    return { element, update, showFound, recount: caption.recount, flush: caption.flush };
  }

  function erase(image) {
    hidden.add(image.id);
    update(images, form);
    let undone = false;
    const timer = setTimeout(send, 10000);
    const leave = () => send({ keepalive: true });
    addEventListener("pagehide", leave);
    toast(t("image.deleted", { name: image.name }), {
      label: t("undo"),
      run: () => {
        undone = true;
        end();
        hidden.delete(image.id);
        update(images, form);
      },
    });
    function end() {
      clearTimeout(timer);
      removeEventListener("pagehide", leave);
    }
    function send(how = {}) {
      end();
      if (undone) return;
      act(null, async () => {
        try {
          await call("DELETE", `/words/${id}/images/${image.id}`, {}, how);
        } finally {
          hidden.delete(image.id);
        }
        await store.load();
      });
    }
  }

  return {
    update,
    showFindings(news) {
      found = news ?? {};
      for (const card of cards.values()) card.showFound();
    },
    showCrops(on) {
      crops = on;
      for (const card of cards.values()) card.showFound();
      if (on && !Object.keys(found).length) toast(t("crops.check"));
    },
  };
}
