/** The same run as a command and as TOML, in two tabs; both can be copied. */

import { el } from "./dom.js";
import { copyButton } from "./notices.js";
import { t } from "./texts.js";

/**
 * Make the two tabs.
 * @param {HTMLElement} place
 * @returns {{update: function({command: string, toml: string}): void}}
 */
export function makeRepeat(place) {
  const kinds = [
    ["command", t("repeat.command")],
    ["toml", t("repeat.toml")],
  ];
  const tabs = kinds.map(([kind, name], at) =>
    el("button.small", {
      type: "button",
      role: "tab",
      id: `tab-${kind}`,
      "aria-controls": `panel-${kind}`,
      text: name,
      onclick: () => open(at),
      onkeydown: (event) => turn(event, at),
    }),
  );
  const texts = kinds.map(() => el("code"));
  const panels = kinds.map(([kind, name], at) =>
    el(
      "div.copied",
      { role: "tabpanel", id: `panel-${kind}`, "aria-labelledby": `tab-${kind}` },
      el("pre", { tabindex: 0, "aria-label": name }, texts[at]),
      el("div.buttons", {}, copyButton(texts[at], t("repeat.copy", { name }))),
    ),
  );
  place.append(el("div.tabs", { role: "tablist", "aria-labelledby": "repeat-title" }, ...tabs), ...panels);

  function open(chosen) {
    tabs.forEach((tab, at) => {
      tab.setAttribute("aria-selected", String(at === chosen));
      tab.tabIndex = at === chosen ? 0 : -1;
      panels[at].hidden = at !== chosen;
    });
  }
  function turn(event, at) {
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!way) return;
    const next = (at + way + tabs.length) % tabs.length;
    open(next);
    tabs[next].focus();
  }
  open(0);
  return {
    update(word) {
      kinds.forEach(([kind], at) => {
        if (texts[at].textContent !== word[kind]) texts[at].textContent = word[kind] ?? "";
      });
    },
  };
}
