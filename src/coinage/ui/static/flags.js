/** Every setting, from the flag table: searched, in groups, those that were changed first. */

import { debounced, el } from "./dom.js";
import { count, number, t } from "./texts.js";

const VAST = 1e6; // no limit that anybody meets
const GROUPS = {
  model: t("group.model"),
  dataset: t("group.dataset"),
  captions: t("group.captions"),
  "buckets and latents": t("group.buckets"),
  output: t("group.output"),
  resuming: t("group.resuming"),
  "hub upload": t("group.hub"),
  "length and precision": t("group.length"),
  "memory and attention": t("group.memory"),
  optimizer: t("group.optimizer"),
  "learning rate schedule": t("group.schedule"),
  "noise and loss": t("group.noise"),
  previews: t("group.previews"),
  logging: t("group.logging"),
  metadata: t("group.metadata"),
  "several processes": t("group.processes"),
  "the new word": t("group.word"),
  "config file": t("group.config"),
  "only in Coinage": t("group.own"),
};

/**
 * @typedef {{name: string, kind: string, default: string, choices: string[], help: string, group: string,
 *   range: {least: number|null, most: number|null}|null}} Flag
 */

/**
 * Make the panel of settings.
 * @param {HTMLElement} place
 * @param {HTMLElement} told says how many were changed
 * @param {import("./store.js").Store} store
 * @returns {{setFlags: function(Flag[]): void, update: function(Object<string, string>): void}}
 */
export function makeFlags(place, told, store) {
  const rows = new Map();
  const groups = new Map();
  let values = {};
  let made = false;
  const search = el("input", {
    type: "search",
    id: "flag-search",
    autocomplete: "off",
    placeholder: t("flags.search.example"),
  });
  const none = el("p.soft", { role: "status" });
  const changed = el("div.rows");
  const changedGroup = el(
    "section.changed",
    { "aria-labelledby": "flags-changed", hidden: true },
    el("h3", { id: "flags-changed", text: t("flags.changed") }),
    changed,
  );
  const list = el("div.groups");
  place.append(
    el("div.field", {}, el("label", { for: "flag-search", text: t("flags.search") }), search),
    none,
    changedGroup,
    list,
  );
  search.addEventListener("input", debounced(sift, 120));

  function set(name, value) {
    values = { ...values };
    if (value === null) delete values[name];
    else values[name] = value;
    store.set({ flags: values });
    show();
  }

  function setFlags(flags) {
    for (const flag of flags) {
      if (!groups.has(flag.group)) {
        const inside = el("div.rows");
        const group = el(
          "details",
          {},
          el("summary", { text: GROUPS[flag.group] ?? (flag.group || t("flags.others")) }),
          inside,
        );
        groups.set(flag.group, { group, inside });
        list.append(group);
      }
      rows.set(flag.name, makeRow(flag, set));
    }
    made = true;
    show();
  }

  /** Put each row in its place; one with the focus stays where it is until it is left. */
  function show() {
    told.textContent = Object.keys(values).length ? count("flags.count", Object.keys(values).length) : "";
    if (!made) return;
    for (const [name, row] of rows) {
      row.update(values[name]);
      const home = name in values ? changed : groups.get(row.flag.group).inside;
      if (row.element.parentElement !== home && !row.element.contains(document.activeElement))
        home.append(row.element);
    }
    sift();
  }
  place.addEventListener("focusout", () => setTimeout(show));

  function sift() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const row of rows.values()) {
      const fits = words.every((word) => row.text.includes(word));
      row.element.hidden = !fits;
      if (fits) found += 1;
    }
    for (const { group, inside } of groups.values()) {
      const any = [...inside.children].some((row) => !row.hidden);
      group.hidden = !any;
      if (words.length) group.open = any;
    }
    if (!words.length && sift.searched) for (const { group } of groups.values()) group.open = false;
    sift.searched = words.length > 0;
    changedGroup.hidden = ![...changed.children].some((row) => !row.hidden);
    none.textContent = words.length && !found ? t("flags.none", { text: search.value }) : "";
  }

  return {
    setFlags,
    update(news) {
      if (store.pending("flags")) return;
      values = { ...news };
      show();
    },
  };
}

function makeRow(flag, set) {
  const id = `flag${flag.name}`;
  const input = makeInput(flag, id, set);
  const reset = el("button.small.plain", {
    type: "button",
    text: t("flags.reset"),
    "aria-label": t("flags.reset.of", { name: flag.name }),
    onclick: () => {
      input.focus();
      set(flag.name, null);
    },
  });
  const { least = null, most = null } = flag.range ?? {};
  const limits =
    least !== null && most !== null && most < VAST ? ` (${number(least)} … ${number(most)})` : "";
  const element = el(
    "div",
    { class: flag.kind === "switch" ? "flag switch" : "flag" },
    el("label.mono", { for: id, text: flag.name }),
    el("div.row", {}, input, reset),
    el("p.help", { id: `${id}-help`, text: `${flag.help}${limits}` }),
  );
  return {
    flag,
    element,
    text: [flag.name, flag.name.replaceAll("_", " "), flag.help, flag.group, GROUPS[flag.group] ?? ""]
      .join(" ")
      .toLowerCase(),
    update(value) {
      reset.hidden = value === undefined;
      element.classList.toggle("set", value !== undefined);
      if (document.activeElement === input && input.type !== "checkbox") return;
      if (input.type === "checkbox") input.checked = value !== undefined ? value !== "false" : isOn(flag);
      else if (input.value !== (value ?? "")) input.value = value ?? "";
    },
  };
}

function isOn(flag) {
  return flag.default === "True";
}

function makeInput(flag, id, set) {
  const about = { id, "aria-describedby": `${id}-help` };
  const standard = flag.default || t("flags.unset");
  if (flag.kind === "switch") {
    const box = el("input", { ...about, type: "checkbox" });
    box.addEventListener("change", () =>
      set(flag.name, box.checked === isOn(flag) ? null : String(box.checked)),
    );
    return box;
  }
  if (flag.choices?.length) {
    const choose = el(
      "select",
      about,
      el("option", { value: "", text: t("flags.default", { value: standard }) }),
      ...flag.choices.map((choice) => el("option", { value: String(choice), text: String(choice) })),
    );
    choose.addEventListener("change", () => set(flag.name, choose.value || null));
    return choose;
  }
  const numeric = ["int", "float"].includes(flag.kind);
  const input = el("input", {
    ...about,
    type: "text",
    inputmode: numeric ? "decimal" : "text",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    placeholder: standard,
  });
  // Not while it is typed: half a number may be a wrong one
  input.addEventListener("change", () => set(flag.name, input.value.trim() || null));
  return input;
}
