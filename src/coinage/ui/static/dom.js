/** Elements from plain values. Text is only ever set as text, so that nothing in it is read as HTML. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element.
 * @param {string} tag such as `button` or `button.primary.small`
 * @param {Object<string, any>} [attributes] `on...` are listeners, `text` is its text, true and false are
 *   switches; null leaves an attribute out
 * @param {...(Node|string|null|undefined|false)} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  if (classes.length) made.className = classes.join(" ");
  return dress(made, attributes, children);
}

/**
 * Make an SVG element, as `el` does.
 * @param {string} tag
 * @param {Object<string, any>} [attributes]
 * @param {...(Node|string|null|undefined|false)} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked" || key === "disabled" || key === "hidden")
      made[key] = value;
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false) made.setAttribute(key, String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Return a text as nodes with every whole occurrence of a word marked.
 * @param {string} text
 * @param {string} word
 * @returns {Node[]}
 */
export function marked(text, word) {
  if (!word) return [document.createTextNode(text)];
  const safe = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const places = new RegExp(`(?<![\\p{L}\\p{N}_])${safe}(?![\\p{L}\\p{N}_])`, "giu");
  const nodes = [];
  let at = 0;
  for (const found of text.matchAll(places)) {
    nodes.push(document.createTextNode(text.slice(at, found.index)), el("mark", { text: found[0] }));
    at = found.index + found[0].length;
  }
  nodes.push(document.createTextNode(text.slice(at)));
  return nodes;
}

/**
 * Return a function that waits until it was not called for a while, and then runs once.
 * @param {function(...any): any} run
 * @param {number} milliseconds
 * @returns {(function(...any): void) & {now: function(): void}}
 */
export function debounced(run, milliseconds) {
  let timer = 0;
  let waiting = null;
  const later = (...values) => {
    clearTimeout(timer);
    waiting = values;
    timer = setTimeout(later.now, milliseconds);
  };
  later.now = () => {
    clearTimeout(timer);
    const values = waiting;
    waiting = null;
    if (values) run(...values);
  };
  return later;
}

/**
 * Return a function that runs at most once in a while, and once more for calls in between.
 * @param {function(): any} run
 * @param {number} milliseconds
 * @returns {function(): void}
 */
export function throttled(run, milliseconds) {
  let timer = 0;
  return () => {
    timer ||= setTimeout(() => {
      timer = 0;
      run();
    }, milliseconds);
  };
}

/**
 * Give `parent` these children in this order, and leave those alone that are there: focus, scroll and
 * half-typed text stay.
 * @param {HTMLElement} parent
 * @param {HTMLElement[]} children
 */
export function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, at) => {
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
  });
}
