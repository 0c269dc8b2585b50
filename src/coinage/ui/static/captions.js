/** Captions: one beside its picture with the word marked and tokens counted, and changes to all of them. */

import { call } from "./api.js";
import { debounced, el, marked } from "./dom.js";
import { act, report, toast } from "./notices.js";
import { count, t } from "./texts.js";

const PAUSE = 500; // milliseconds without typing, after which it is saved

/**
 * Make the field of a caption.
 * @param {{id: string, name: string, caption?: string}} image
 * @param {function(string, function(Object): void): void} counter of tokens
 * @param {function(string): Promise<any>} save
 */
export function makeCaption(image, counter, save) {
  const shade = el("div.shade", { "aria-hidden": "true" });
  const counted = el("span.tokens", { id: `tokens-${image.id}` });
  const field = el("textarea.caption", {
    rows: 1,
    spellcheck: "false",
    placeholder: t("caption.none"),
    "aria-label": t("caption.of", { name: image.name }),
    "aria-describedby": counted.id,
  });
  const element = el("div.captioned", {}, el("div.layers", {}, shade, field), counted);
  let word = "";
  let saved = null;
  let saving = 0; // requests under way
  let last = Promise.resolve();

  const paint = () => shade.replaceChildren(...marked(field.value, word), "\n");
  const tell = ({ count: n, most, exact }) => {
    counted.textContent = t("caption.tokens", { n: exact ? n : `~${n}`, most });
    counted.classList.toggle("bad", n > most);
  };
  const send = async () => {
    const text = field.value;
    saving += 1;
    try {
      await save(text);
      saved = text;
    } catch (error) {
      report(error);
    }
    saving -= 1;
  };
  const store = debounced(() => {
    last = last.then(send);
  }, PAUSE);
  const flush = () => {
    store.now();
    return last;
  };
  let asked = null; // the text whose tokens were asked for
  const recount = () => {
    asked = field.value;
    counter(asked, tell);
  };

  field.addEventListener("input", () => {
    paint();
    recount();
    store();
  });
  field.addEventListener("change", () => store.now());
  addEventListener("pagehide", () => store.now());

  function update(text, token) {
    const untouched = saved === null || field.value === saved;
    const free = untouched && !saving && document.activeElement !== field;
    if (free && text !== field.value) field.value = text;
    if (free) saved = text;
    if (asked !== field.value) recount();
    word = token;
    paint();
  }
  return { element, update, recount, flush };
}

/**
 * Make the tools that change all captions.
 * @param {HTMLElement} place
 * @param {string} id of the word
 * @param {import("./store.js").Store} store
 */
export function makeCaptionTools(place, id, store) {
  const fields = {};
  const field = (key, label) => {
    fields[key] = el("input", {
      type: "text",
      id: `all-${key}`,
      spellcheck: "false",
      autocomplete: "off",
      oninput: preview,
    });
    return el("div.field", {}, el("label", { for: `all-${key}`, text: label }), fields[key]);
  };
  const told = el("p.soft", { role: "status" });
  const button = el("button.primary", { type: "submit", text: t("captions.change"), disabled: true });
  const form = el(
    "form.all-captions",
    {},
    field("find", t("captions.find")),
    field("replace", t("captions.replace")),
    field("prefix", t("captions.prefix")),
    field("suffix", t("captions.suffix")),
    el("div.buttons", {}, button, told),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    act(button, async () => {
      await store.flush();
      const body = Object.fromEntries(Object.entries(fields).map(([key, input]) => [key, input.value]));
      const { changed } = await call("POST", `/words/${id}/captions`, { ...body, regex: false });
      form.reset();
      await store.load();
      preview();
      toast(count("captions.changed", changed));
    });
  });
  place.append(form);
  let images = [];

  function preview() {
    const { find, replace, prefix, suffix } = fields;
    const change = (text) => {
      const replaced = find.value ? text.replaceAll(find.value, () => replace.value) : text;
      const begun = replaced.startsWith(prefix.value) ? replaced : prefix.value + replaced;
      return (begun.endsWith(suffix.value) ? begun : begun + suffix.value).trim();
    };
    const changed = images.filter((image) => change(image.caption ?? "") !== (image.caption ?? "")).length;
    const asked = find.value || prefix.value || suffix.value;
    told.textContent = asked ? count("captions.would", changed) : "";
    button.disabled = !changed;
  }

  return {
    update(news) {
      images = news;
      preview();
    },
  };
}
