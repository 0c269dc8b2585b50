/** Count tokens of texts: those of a moment are asked for together. */

import { call } from "./api.js";
import { debounced } from "./dom.js";
import { report } from "./notices.js";

const PAUSE = 350; // milliseconds
const AT_ONCE = 200; // texts in one question

/**
 * @param {function(): {word: string, vectors: number, model: string}} about what the texts hold
 * @returns {function(string, function({count: number, most: number, exact: boolean}): void): void} asks for
 *   one text's count
 */
export function countTokens(about) {
  let waiting = [];
  const ask = debounced(async () => {
    const all = waiting;
    waiting = [];
    try {
      for (let at = 0; at < all.length; at += AT_ONCE) {
        const some = all.slice(at, at + AT_ONCE);
        const { counts, most, exact } = await call("POST", "/tokens", {
          texts: some.map((one) => one.text),
          ...about(),
        });
        some.forEach((one, i) => one.tell({ count: counts[i], most, exact }));
      }
    } catch (error) {
      if (error.status !== 0) report(error);
    }
  }, PAUSE);
  return (text, tell) => {
    waiting = waiting.filter((one) => one.tell !== tell);
    waiting.push({ text, tell });
    ask();
  };
}
