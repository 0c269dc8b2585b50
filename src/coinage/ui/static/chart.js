/** A curve over the steps as SVG, with the same figures as a table. */

import { el, svg } from "./dom.js";
import { number, t } from "./texts.js";

const WIDTH = 400;
const HEIGHT = 210;
const EDGE = { left: 44, right: 8, top: 8, bottom: 24 };
const MOST_POINTS = 400; // drawn; more than a screen shows
const ROWS = 20; // of the table

/**
 * Make an empty chart.
 * @param {string} title
 * @param {string} unit written after values, such as `°`
 * @param {number} hue 0..3, of the report's colours
 * @param {{smooth?: boolean}} [how] `smooth` draws the values pale, and their course above them
 * @returns {{element: HTMLElement, update: function([number, number][]): void}} `update` takes pairs of
 *   step and value in the order of steps
 */
export function makeChart(title, unit, hue, how = {}) {
  const now = el("b");
  const where = el("span");
  const drawing = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const body = el("tbody");
  const table = el(
    "table",
    {},
    el("caption.hidden-text", { text: title }),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("th", { scope: "col", text: t("chart.step") }),
        el("th", { scope: "col", text: title }),
      ),
    ),
    body,
  );
  const element = el(
    "figure.plot",
    { class: `plot s${hue}` },
    el("figcaption", {}, el("h3", { text: title }), el("p.legend", {}, now, where)),
    el("div.drawing", {}, drawing),
    el(
      "details",
      {},
      el("summary", { text: t("chart.table", { title }) }),
      el("div.scroll", { tabindex: 0, role: "group", "aria-label": title }, table),
    ),
  );
  let points = [];

  const value = (y) => `${number(y, 3)}${unit}`;
  const rest = () => {
    now.textContent = points.length ? value(points.at(-1)[1]) : "";
    where.textContent = "";
  };

  function update(all) {
    points = how.smooth ? smoothed(all) : all;
    const empty = all.length < 2;
    drawing.setAttribute(
      "aria-label",
      empty
        ? t("chart.empty", { title })
        : t("chart.says", {
            title,
            first: value(points[0][1]),
            last: value(points.at(-1)[1]),
            step: points.at(-1)[0],
          }),
    );
    rest();
    if (empty) {
      drawing.replaceChildren(
        ...axes(
          scale([
            [0, 0],
            [1, 1],
          ]),
        ),
      );
      body.replaceChildren();
      return;
    }
    const area = scale(how.smooth ? all : points);
    drawing.replaceChildren(
      ...axes(area, value),
      how.smooth ? svg("path", { class: "trace", d: path(thinned(all), area) }) : null,
      svg("path", { class: "line", d: path(thinned(points), area) }),
    );
    const rule = svg("path", { class: "rule", d: "" });
    drawing.append(rule);
    drawing.onpointermove = (event) => {
      const box = drawing.getBoundingClientRect();
      const step = area.step(((event.clientX - box.left) * WIDTH) / box.width);
      const near = points.reduce((best, one) =>
        Math.abs(one[0] - step) < Math.abs(best[0] - step) ? one : best,
      );
      rule.setAttribute("d", `M${area.x(near[0])},${EDGE.top}V${HEIGHT - EDGE.bottom}`);
      now.textContent = value(near[1]);
      where.textContent = t("stage.step", { step: near[0] });
    };
    drawing.onpointerleave = () => {
      rule.setAttribute("d", "");
      rest();
    };
    body.replaceChildren(
      ...thinned(points, ROWS).map(([step, y]) =>
        el("tr", {}, el("th", { scope: "row", text: step }), el("td", { text: value(y) })),
      ),
    );
  }
  update([]);
  return { element, update };
}

/** Return the running mean of values; each stands for about a fifteenth of the run before it. */
function smoothed(points) {
  const share = 1 / Math.max(1, Math.min(200, points.length / 15));
  let mean = null;
  return points.map(([step, value]) => {
    mean = mean === null ? value : mean + share * (value - mean);
    return [step, mean];
  });
}

function thinned(points, most = MOST_POINTS) {
  if (points.length <= most) return points;
  return Array.from({ length: most }, (_, i) => points[Math.round((i * (points.length - 1)) / (most - 1))]);
}

function scale(points) {
  const steps = points.map((point) => point[0]);
  const sorted = points.map((point) => point[1]).sort((a, b) => a - b);
  const first = steps[0];
  const last = Math.max(steps.at(-1), first + 1);
  // A few loud values do not press the curve flat
  const high = sorted[Math.floor((sorted.length - 1) * 0.995)];
  const low = sorted[0];
  const ticks = ticksOf(low, high);
  const bottom = Math.min(low, ticks[0]);
  const top = Math.max(high, ticks.at(-1), bottom + 1e-12);
  const wide = WIDTH - EDGE.left - EDGE.right;
  const tall = HEIGHT - EDGE.top - EDGE.bottom;
  return {
    first,
    last,
    ticks,
    x: (step) => EDGE.left + (wide * (step - first)) / (last - first),
    y: (value) => EDGE.top + tall * (1 - Math.min(1.02, (value - bottom) / (top - bottom))),
    step: (x) => first + ((last - first) * (x - EDGE.left)) / wide,
  };
}

/** Return three to six round values that cover a range. */
function ticksOf(low, high) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.floor(low / step);
  const last = Math.ceil(high / step);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

function axes(area, value = () => "") {
  const lines = area.ticks.map((tick) =>
    svg(
      "g",
      {},
      svg("path", { class: "grid", d: `M${EDGE.left},${area.y(tick).toFixed(1)}H${WIDTH - EDGE.right}` }),
      svg(
        "text",
        { x: EDGE.left - 6, y: (area.y(tick) + 4).toFixed(1), "text-anchor": "end", "aria-hidden": "true" },
        value(tick),
      ),
    ),
  );
  const bottom = HEIGHT - EDGE.bottom;
  const round = ticksOf(area.first, area.last).filter(
    (step) => step >= area.first && step <= area.last && Number.isInteger(step),
  );
  const steps = value(0) === "" ? [] : round;
  return [
    ...lines,
    svg("path", { class: "axis", d: `M${EDGE.left},${bottom}H${WIDTH - EDGE.right}` }),
    ...steps.map((step) =>
      svg(
        "text",
        { x: area.x(step).toFixed(1), y: bottom + 16, "text-anchor": "middle", "aria-hidden": "true" },
        number(step),
      ),
    ),
  ];
}

function path(points, area) {
  const places = points.map(([step, value]) => `${area.x(step).toFixed(1)},${area.y(value).toFixed(1)}`);
  return `M${places.join("L")}`;
}
