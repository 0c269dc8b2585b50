/** The page that draws with words: prompt, seeds, with and without, and what was drawn before. */

import { call } from "./api.js";
import { nameOf } from "./choices.js";
import { byId, el } from "./dom.js";
import { listen } from "./events.js";
import { act, report, showProblems } from "./notices.js";
import { makeDrawing } from "./drawing.js";
import { duration, t } from "./texts.js";

const SAMPLERS = [
  "ddim",
  "ddpm",
  "pndm",
  "lms",
  "euler",
  "euler_a",
  "heun",
  "dpm_2",
  "dpm_2_a",
  "dpmsolver",
  "dpmsolver++",
  "dpmsingle",
];
const SHOWN_BEFORE = 24;
const wanted = new URLSearchParams(location.search).get("word");
const chosen = new Map(); // id of a file to its word
let words = [];
let models = [];
let source = null;

function chip(word, file) {
  const button = el("button.chip", {
    type: "button",
    "aria-pressed": "false",
    text: word.token,
    title: file.name,
  });
  button.addEventListener("click", () => {
    const on = !chosen.has(file.id);
    if (on) {
      chosen.set(file.id, word.token);
      insert(word.token);
    } else chosen.delete(file.id);
    button.setAttribute("aria-pressed", String(on));
  });
  return button;
}

function insert(token) {
  const prompt = byId("prompt");
  if (prompt.value.includes(token)) return;
  const at = document.activeElement === prompt ? prompt.selectionStart : prompt.value.length;
  const before = prompt.value.slice(0, at);
  const space = before && !before.endsWith(" ") ? " " : "";
  prompt.value = `${before}${space}${token}${prompt.value.slice(at)}`;
}

function showChips() {
  const usable = words.filter((word) => word.files?.length);
  const chips = usable.map((word) => chip(word, word.files[0]));
  byId("chips").replaceChildren(...(chips.length ? chips : [el("p.soft", { text: t("try.none") })]));
  const at = wanted || usable.length !== 1 ? usable.findIndex((word) => word.id === wanted) : 0;
  if (at >= 0) {
    byId("prompt").value = "a photo of ";
    chips[at].click();
  }
}

/** Offer what the chosen model can be asked for; of the rest say why it cannot. */
function fitModel() {
  const model = models.find((one) => one.id === byId("model").value);
  if (!model) return;
  const why = { family: model.family_name };
  offer("show_words", model.cross_attends, t("try.acts.never", why));
  offer("sampler", !model.is_flow, t("try.sampler.own", why));
  for (const side of ["width", "height"]) byId(side).step = model.size_unit;
}

function offer(id, is, why) {
  byId(id).disabled = !is;
  byId(`${id}-why`).textContent = is ? "" : why;
}

function request() {
  const may = (id) => !byId(id).disabled;
  const number = (id) => (byId(id).value === "" ? null : Number(byId(id).value));
  return {
    model: byId("model").value,
    prompt: byId("prompt").value.trim(),
    negative: byId("negative").value.trim(),
    words: [...chosen.keys()],
    with_and_without: byId("both").checked && chosen.size > 0,
    show_words: may("show_words") && byId("show_words").checked && chosen.size > 0,
    seeds: number("seeds"),
    first_seed: number("first_seed"),
    steps: number("steps"),
    guidance: number("guidance"),
    width: number("width"),
    height: number("height"),
    sampler: (may("sampler") && byId("sampler").value) || null,
  };
}

async function draw() {
  const asked = request();
  const { id } = await call("POST", "/try", asked);
  follow({
    id,
    request: { ...asked, first_seed: asked.first_seed ?? 0 },
    state: "running",
    pictures: [],
    total: 0,
  });
}

/** Show a drawing, and its pictures as they come. */
function follow(begun) {
  source?.close();
  const drawing = makeDrawing(begun.id, begun.request, words);
  byId("nothing").hidden = true;
  byId("pictures").replaceChildren(drawing.element);
  drawing.expect(begun.total || begun.request.seeds * (begun.request.with_and_without ? 2 : 1));
  let over = false;
  const show = (news) => {
    over = news.state !== "running";
    if (news.total) drawing.expect(over ? news.pictures.length : news.total);
    news.pictures.forEach(drawing.add);
    drawing.note(news.notes ?? []);
    showProgress(news);
    if (news.problems?.length) showProblems(news.problems, "action");
    if (over) {
      source?.close();
      loadHistory().catch(report);
    }
  };
  if (begun.state === "running")
    source = listen(`/try/${begun.id}/events`, { drawing: show }, { done: () => over });
  else show(begun);
}

function showProgress(drawing) {
  const place = byId("progress");
  if (drawing.state !== "running") {
    place.replaceChildren();
    return;
  }
  if (!place.children.length) {
    const stop = el("button.small", {
      type: "button",
      text: t("action.stop"),
      onclick: () => act(stop, () => call("POST", `/try/${drawing.id}/stop`)),
    });
    place.append(el("p.soft"), el("progress", { max: 1, "aria-label": t("try.progress") }), stop);
  }
  const [text, bar] = place.children;
  bar.value = drawing.share ?? 0;
  const left = Number.isFinite(drawing.seconds_left)
    ? ` · ${t("time.left", { time: duration(drawing.seconds_left) })}`
    : "";
  text.textContent =
    drawing.phase === "loading"
      ? t("phase.loading")
      : t("try.drawing", { done: drawing.done, total: drawing.total }) + left;
}

async function loadHistory() {
  const drawings = await call("GET", "/try");
  byId("history-section").hidden = !drawings.length;
  byId("history").replaceChildren(
    ...drawings.slice(0, SHOWN_BEFORE).map((drawing) => {
      const first = drawing.pictures[0];
      return el(
        "li",
        {},
        el(
          "button.before",
          {
            type: "button",
            onclick: () => {
              follow(drawing);
              scrollTo({ top: 0 });
            },
          },
          first
            ? el("img", { src: `/api/try/${drawing.id}/${first.number}.png`, alt: "", loading: "lazy" })
            : el("span.blank", { "aria-hidden": "true" }),
          el("span", { text: drawing.request.prompt }),
        ),
      );
    }),
  );
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  act(byId("draw"), draw);
});
byId("model").addEventListener("change", fitModel);
byId("sampler").append(
  el("option", { value: "", text: t("try.auto") }),
  ...SAMPLERS.map((name) => el("option", { value: name, text: name })),
);

async function begin() {
  try {
    [models, words] = await Promise.all([call("GET", "/models"), call("GET", "/words")]);
    byId("model").replaceChildren(
      ...models.map((model) => el("option", { value: model.id, text: nameOf(model) })),
    );
    if (wanted) {
      const { form } = await call("GET", `/words/${wanted}`);
      if (models.some((model) => model.id === form?.model)) byId("model").value = form.model;
    }
    fitModel();
    showChips();
    await loadHistory();
  } catch (error) {
    report(error);
  }
}
begin();
