/** The runs that wait: their order, a pause, and a time of night. */

import { call } from "./api.js";
import { el } from "./dom.js";
import { act } from "./notices.js";
import { t } from "./texts.js";

const TONIGHT = "22:00";

/**
 * Fill the queue's panel.
 * @param {HTMLElement} panel
 * @param {function(): void} changed is called after each change
 * @returns {{update: function(Object, Object[]): void}}
 */
export function makeQueue(panel, changed) {
  let queue = { order: [], paused: false, not_before: null };
  const list = el("ol.waiting");
  const pause = el("button.small", {
    type: "button",
    onclick: () => change(pause, { paused: !queue.paused }),
  });
  const night = el("input", {
    type: "checkbox",
    onchange: () => change(null, { not_before: night.checked ? time.value || TONIGHT : "" }),
  });
  const time = el("input", {
    type: "time",
    value: TONIGHT,
    "aria-label": t("queue.time"),
    onchange: () => {
      if (night.checked && time.value) change(null, { not_before: time.value });
    },
  });
  const note = el("p.soft", { role: "status" });
  panel.append(
    list,
    el("div.buttons", {}, pause, el("label.check", {}, night, t("queue.night")), time),
    note,
  );

  const change = (button, part) =>
    act(button, async () => {
      await call("POST", "/queue", part);
      changed();
    });
  const move = (id, to, button) => {
    const order = queue.order.filter((one) => one !== id);
    order.splice(to, 0, id);
    return change(button, { order });
  };

  function row(id, at, token) {
    const last = queue.order.length - 1;
    const button = (text, label, run, disabled = false) =>
      el("button.small.icon", {
        type: "button",
        text,
        "aria-label": label,
        disabled,
        onclick: (event) => run(event.currentTarget),
      });
    const made = el(
      "li",
      { draggable: "true", "data-id": id },
      el("span.grip", { "aria-hidden": "true", text: "⠿" }),
      el("a", { href: `/words/${id}`, text: token }),
      button("↑", t("queue.up", { token }), (self) => move(id, at - 1, self), at === 0),
      button("↓", t("queue.down", { token }), (self) => move(id, at + 1, self), at === last),
      button("✕", t("queue.cancel", { token }), (self) =>
        act(self, async () => {
          await call("POST", `/words/${id}/cancel`);
          changed();
        }),
      ),
    );
    made.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/plain", id));
    made.addEventListener("dragover", (event) => {
      event.preventDefault();
      made.classList.add("over");
    });
    made.addEventListener("dragleave", () => made.classList.remove("over"));
    made.addEventListener("drop", (event) => {
      event.preventDefault();
      const moved = event.dataTransfer.getData("text/plain");
      if (queue.order.includes(moved) && moved !== id) move(moved, at, null);
    });
    return made;
  }

  function update(news, words) {
    queue = { order: news.order ?? [], paused: Boolean(news.paused), not_before: news.not_before ?? null };
    const tokens = new Map(words.map((word) => [word.id, word.token]));
    const focused = document.activeElement?.closest("[data-id]")?.dataset.id;
    const place = document.activeElement
      ? [...(document.activeElement.parentElement?.children ?? [])].indexOf(document.activeElement)
      : -1;
    list.replaceChildren(...queue.order.map((id, at) => row(id, at, tokens.get(id) ?? id)));
    if (focused) list.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.children[place]?.focus();
    pause.textContent = t(queue.paused ? "queue.go" : "queue.pause");
    night.checked = queue.not_before !== null;
    if (queue.not_before && document.activeElement !== time) time.value = queue.not_before;
    note.textContent = queue.paused
      ? t("queue.paused")
      : queue.not_before
        ? t("queue.waits", { time: queue.not_before })
        : "";
    panel.hidden = !queue.order.length && !queue.paused && queue.not_before === null;
  }
  return { update };
}
