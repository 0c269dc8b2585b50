/** What is known of one embedding file, and what can be made of it. */

import { call } from "./api.js";
import { nameOf } from "./choices.js";
import { el } from "./dom.js";
import { act, toast } from "./notices.js";
import { number, size, t } from "./texts.js";

const FORMATS = [
  ["safetensors", "safetensors"],
  ["pt", "pt (AUTOMATIC1111)"],
  ["diffusers", "diffusers"],
  ["onetrainer", "OneTrainer"],
];

/**
 * Make the sheet of a file.
 * @param {{id: string, name: string}} file
 * @param {{files: Object[], models: Object[], changed: function(): Promise<any>}} house
 * @returns {{element: HTMLElement, begin: function(): void}}
 */
export function makeExamination(file, house) {
  const result = el("div.stack", {}, el("p.soft", { text: t("files.reading") }));
  const verdicts = el("div");
  const model = el(
    "select",
    { id: "verify-model" },
    ...house.models.map((one) => el("option", { value: one.id, text: nameOf(one) })),
  );
  const near = el(
    "select",
    { id: "near-model", onchange: () => begin() },
    el("option", { value: "", text: t("files.near.none") }),
    ...house.models
      .filter((one) => one.family)
      .map((one) => el("option", { value: one.id, text: nameOf(one) })),
  );
  const element = el(
    "div.stack",
    {},
    el(
      "div.head",
      {},
      el("h2", { text: file.name }),
      el("a.button", { href: `/api/files/${file.id}`, download: true, text: t("download") }),
    ),
    el("div.fields", {}, field("near-model", t("files.near"), near)),
    result,
    section(
      t("files.verify"),
      t("files.verify.help"),
      field("verify-model", t("form.model"), model),
      button(t("files.verify.do"), verify),
      verdicts,
    ),
    section(t("files.convert"), t("files.convert.help"), ...convertFields()),
    section(t("files.rescale"), t("files.rescale.help"), ...rescaleFields()),
    section(t("files.mix"), t("files.mix.help"), ...mixFields()),
  );

  const ask = (what, body) => call("POST", `/files/${file.id}/${what}`, body);
  const begin = () =>
    act(null, async () => {
      try {
        result.replaceChildren(...inspected(await ask("inspect", { model: near.value || null })));
      } catch (error) {
        result.replaceChildren();
        throw error;
      }
    });

  async function verify(self) {
    await act(self, async () => {
      const { tools, usage } = await ask("verify", { model: model.value });
      const lines = el("code", { text: usage.join("\n") });
      verdicts.replaceChildren(
        el("ul.tools-list", {}, ...tools.map(verdict)),
        el("pre.usage", { tabindex: 0, "aria-label": t("files.usage"), lang: "en" }, lines),
      );
    });
  }
  const made = (answer) => {
    toast(t("files.made", { name: answer.files.map((one) => one.name).join(", ") }));
    return house.changed();
  };

  function convertFields() {
    const format = el(
      "select",
      { id: "convert-to" },
      ...FORMATS.map(([value, text]) => el("option", { value, text })),
    );
    return [
      field("convert-to", t("files.format"), format),
      button(t("files.convert.do"), (self) =>
        act(self, async () => made(await ask("convert", { to: format.value }))),
      ),
    ];
  }
  function rescaleFields() {
    const length = el("input", { id: "rescale-by", type: "number", min: 0.01, step: 0.01, value: 1 });
    return [
      field("rescale-by", t("files.length"), length),
      button(t("files.rescale.do"), (self) =>
        act(self, async () => made(await ask("rescale", { factor: Number(length.value) }))),
      ),
    ];
  }
  function mixFields() {
    const others = house.files.filter((one) => one.id !== file.id);
    const other = el(
      "select",
      { id: "mix-with" },
      ...others.map((one) => el("option", { value: one.id, text: one.name })),
    );
    const share = el("input", { id: "mix-share", type: "range", min: 0, max: 1, step: 0.05, value: 0.5 });
    return others.length
      ? [
          field("mix-with", t("files.mix.with"), other),
          field("mix-share", t("files.mix.share"), share),
          button(t("files.mix.do"), (self) =>
            act(self, async () => made(await ask("mix", { with: other.value, share: Number(share.value) }))),
          ),
        ]
      : [el("p.soft", { text: t("files.mix.alone") })];
  }
  return { element, begin };
}

function section(title, help, ...contents) {
  return el(
    "details.treatment",
    {},
    el("summary", { text: title }),
    el("p.soft", { text: help }),
    el("div.fields", {}, ...contents),
  );
}

function field(id, label, input) {
  return el("div.field", {}, el("label", { for: id, text: label }), input);
}

function button(text, run) {
  return el("button", { type: "button", text, onclick: (event) => run(event.currentTarget) });
}

/** Return what was found out about a file. */
function inspected(about) {
  const facts = [
    [t("form.token"), about.token],
    [t("files.family"), about.family ? about.family_name : t("model.unknown")],
    [t("form.vectors"), about.vectors],
    [t("files.layout"), about.layout?.name],
    [t("files.dtype"), about.dtype],
    [t("files.size"), Number.isFinite(about.bytes) ? size(about.bytes) : null],
    [t("files.model"), about.metadata?.["ti.model"] ?? about.metadata?.ss_sd_model_name],
    [t("run.step"), about.metadata?.["ti.steps"]],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  return [
    el(
      "dl.facts",
      {},
      ...facts.map(([name, value]) =>
        el("div", {}, el("dt", { text: name }), el("dd", { text: String(value) })),
      ),
    ),
    ...(about.warnings ?? []).map((text) => el("p.warning", { lang: "en", text })),
    ...(about.notes ?? []).map((text) => el("p.note-line", { lang: "en", text })),
    ...(about.encoders ?? []).map(encoder),
    about.tools?.length
      ? el(
          "div",
          {},
          el("h3", { text: t("files.works") }),
          el("ul.tools-list", {}, ...about.tools.map(verdict)),
        )
      : "",
    about.metadata && Object.keys(about.metadata).length
      ? el(
          "details",
          {},
          el("summary", { text: t("files.metadata") }),
          el(
            "dl.pairs",
            {},
            ...Object.entries(about.metadata).map(([name, value]) =>
              el("div", {}, el("dt", { text: name }), el("dd", { text: String(value) })),
            ),
          ),
        )
      : "",
  ].filter(Boolean);
}

function encoder(one) {
  const rows = one.rows ?? one.vectors ?? [];
  return el(
    "div",
    {},
    el("h3", { text: t("files.encoder", { key: one.key, width: one.width ?? "" }) }),
    el(
      "ul.near-list",
      {},
      ...rows.map((row, at) =>
        el(
          "li",
          {},
          el("span.soft", { text: t("files.vector", { n: at + 1 }) }),
          el("span", {
            text: [
              Number.isFinite(row.norm) ? t("files.norm", { n: number(row.norm, 3) }) : "",
              (row.nearest ?? []).map((near) => near.word ?? near.token ?? near).join(", "),
            ]
              .filter(Boolean)
              .join(" · "),
          }),
        ),
      ),
    ),
  );
}

function verdict(one) {
  const [text, tone] = judged(one);
  return el(
    "li",
    {},
    el("b", { text: one.tool ?? one.name }),
    el("span", { class: `verdict ${tone}`, text }),
    one.write ? el("code", { text: one.write }) : null,
    one.why ? el("span.soft", { lang: "en", text: one.why }) : null,
  );
}

/** Return a judgement in words, and its tone. A file that was only inspected is known to load, no more. */
function judged(one) {
  if (!one.loads) return [t("verdict.no"), "bad"];
  if (one.same === undefined) return [t("verdict.loads"), "good"];
  if (one.same) return [t("verdict.same"), "good"];
  return one.untried || one.difference === null ? [t("verdict.untried"), ""] : [t("verdict.differs"), "care"];
}
