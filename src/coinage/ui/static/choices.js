/** The choices in sight: word, model, kind, vectors, length, and the prompts of the previews. */

import { call } from "./api.js";
import { byId, el } from "./dom.js";
import { act, toast } from "./notices.js";
import { t } from "./texts.js";

/**
 * Bind the choices to the store.
 * @param {import("./store.js").Store} store
 * @returns {{update: function(Object): void, setModels: function(Object[]): void}}
 */
export function makeChoices(store) {
  let models = null;
  let form = {};

  const kinds = radios(byId("kind"), "kind", [
    ["object", t("kind.object"), t("kind.object.help")],
    ["style", t("kind.style"), t("kind.style.help")],
    ["person", t("kind.person"), t("kind.person.help")],
  ]);
  const lengths = radios(byId("length"), "length", [
    ["quick", t("length.quick"), t("length.quick.help")],
    ["normal", t("length.normal"), t("length.normal.help")],
    ["long", t("length.long"), t("length.long.help")],
  ]);

  function radios(place, key, options) {
    const inputs = options.map(([value]) =>
      el("input", { type: "radio", name: key, value, onchange: () => store.set({ [key]: value }) }),
    );
    place.append(
      ...options.map(([, name, help], at) =>
        el("label.choice", {}, inputs[at], el("span", { text: name }), el("span.help", { text: help })),
      ),
    );
    return (value) => {
      for (const input of inputs) input.checked = input.value === value;
    };
  }

  bind("token", (input) => (input.value.trim() ? { token: input.value.trim() } : null));
  bind("negative", (input) => ({ negative: input.value }));
  bind("prompts", (input) => ({
    prompts: input.value
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean),
  }));
  bind("vectors", (input) => (input.validity.valid && input.value ? { vectors: Number(input.value) } : null));
  byId("model").addEventListener("change", (event) => {
    store.set({ model: event.target.value });
    noteModel(event.target.value);
  });
  byId("hub-form").addEventListener("submit", (event) => {
    event.preventDefault();
    act(event.submitter, async () => {
      const hub = byId("hub").value.trim();
      await call("POST", "/models", { hub });
      setModels(await call("GET", "/models"));
      byId("hub").value = "";
      toast(t("model.added", { name: hub }));
    });
  });

  function bind(key, read) {
    const input = byId(key);
    input.addEventListener("input", () => {
      const part = read(input);
      input.setAttribute("aria-invalid", String(part === null));
      if (part) store.set(part);
    });
  }

  function fill(key, value) {
    const input = byId(key);
    if (store.pending(key) || document.activeElement === input) return;
    if (input.value !== String(value ?? "")) input.value = value ?? "";
  }

  function update(news) {
    form = news;
    fill("token", form.token);
    fill("negative", form.negative);
    fill("vectors", form.vectors);
    fill("prompts", (form.prompts ?? []).join("\n"));
    if (!store.pending("kind")) kinds(form.kind);
    if (!store.pending("length")) lengths(form.length);
    if (models) showModels();
  }

  function setModels(news) {
    models = news;
    showModels();
  }

  function showModels() {
    if (store.pending("model")) return;
    const gone = form.model && !models.some((model) => model.id === form.model);
    byId("model").replaceChildren(
      ...(form.model ? [] : [el("option", { value: "", text: t("model.choose") })]),
      ...(gone ? [el("option", { value: form.model, text: t("model.gone") })] : []),
      ...models.map((model) => el("option", { value: model.id, text: nameOf(model) })),
    );
    byId("model").value = form.model ?? "";
    noteModel(form.model);
  }

  function noteModel(chosen) {
    const model = models.find((one) => one.id === chosen);
    const note = byId("model-note");
    note.classList.toggle("bad", Boolean(model?.problem) || !model);
    note.textContent = model
      ? model.problem || model.family_name || t("model.unknown")
      : t(chosen ? "model.gone" : "model.none");
  }
  return { update, setModels };
}

/** @param {{name: string, family_name: string}} model "" of an unknown family @returns {string} */
export function nameOf(model) {
  const family = model.family_name;
  return family && !model.name.includes(family) ? `${model.name} – ${family}` : model.name;
}
