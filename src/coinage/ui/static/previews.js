/** A run's previews in order: which prompts there are, with and without the word, and their pictures. */

/**
 * @typedef {{file: string, step: number|null, epoch: number|null, index: number, text: string,
 *   of: number|null, best?: boolean, kept?: boolean}} Preview
 * @typedef {{key: string, text: string, without: boolean, pictures: {step: number, url: string}[]}} Row
 */

/**
 * @param {string} id of the word
 * @param {string} file
 * @returns {string} the address of a picture
 */
export function pictureOf(id, file) {
  return `/api/words/${id}/previews/${encodeURIComponent(file)}`;
}

/**
 * Put previews in order.
 * @param {string} id of the word
 * @param {Preview[]} previews
 * @returns {Row[][]} groups: a prompt with the word, and the same without it if that was drawn
 */
export function previewGroups(id, previews) {
  const rows = new Map();
  for (const one of previews) {
    if (one.kept || one.best) continue;
    if (!rows.has(one.index)) {
      rows.set(one.index, {
        key: String(one.index),
        text: one.text,
        of: one.of,
        without: Number.isInteger(one.of),
        pictures: [],
      });
    }
    rows.get(one.index).pictures.push({ step: one.step ?? one.epoch ?? 0, url: pictureOf(id, one.file) });
  }
  const groups = new Map();
  for (const [index, row] of [...rows].sort(([a], [b]) => a - b)) {
    row.pictures.sort((a, b) => a.step - b.step);
    const home = row.without && rows.has(row.of) ? row.of : index;
    groups.set(home, [...(groups.get(home) ?? []), row]);
  }
  return [...groups.values()];
}
