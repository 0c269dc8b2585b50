/** The built-in example: eight pictures and captions, for the small model that comes with Coinage. */

import { call, put } from "./api.js";

const MODEL = "demo-sd1";
const TOKEN = "zibu";
const CAPTIONS = [
  "a photo of a solid cyan zibu on a black background",
  "a photo of a dotted pink zibu on a brown background",
  "a photo of a striped yellow zibu on a mint background",
  "a photo of a solid blue zibu on a sky background",
  "a photo of a solid purple zibu on a gray background",
  "a photo of a solid green zibu on a white background",
  "a photo of a dotted red zibu on a black background",
  "a photo of a striped orange zibu on a brown background",
];
const FORM = {
  model: MODEL,
  kind: "object",
  vectors: 1,
  length: "quick",
  prompts: [],
  flags: {
    "--init_word": "shape",
    "--learning_rate": "0.005",
    "--resolution": "64",
    "--seed": "0",
    "--sample_at_first": "true",
    "--sample_every_n_steps": "100",
  },
};

/** Make a word from the example, and go to its form. */
export async function makeExample() {
  const { id } = await call("POST", "/words", { token: TOKEN });
  await call("PATCH", `/words/${id}`, FORM);
  for (const [at, caption] of CAPTIONS.entries()) {
    const name = `${String(at + 1).padStart(2, "0")}.png`;
    const picture = await (await fetch(`/static/example/${name}`)).blob();
    const { image } = await put(`/words/${id}/images?name=${name}`, picture);
    await call("PATCH", `/words/${id}/images/${image.id}`, { caption });
  }
  location.href = `/words/${id}/edit`;
}
