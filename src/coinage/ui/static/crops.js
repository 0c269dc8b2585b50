/** What training will see of an image: the part that is cut out, and the bucket it goes to. */

import { el, svg } from "./dom.js";
import { t } from "./texts.js";

/**
 * Return a drawing that lies over an image of the same shape: what is cut off is dark.
 * @param {{width: number, height: number}} image in pixels
 * @param {{crop: [number, number, number, number], bucket: [number, number]}} about x, y, width and height in
 *   pixels of the image; width and height of the bucket
 * @returns {HTMLElement}
 */
export function cropPicture(image, about) {
  const [x, y, wide, tall] = about.crop;
  const { width, height } = image;
  const line = Math.max(width, height) / 120;
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    svg("path", {
      class: "cut",
      "fill-rule": "evenodd",
      d: `M0,0H${width}V${height}H0ZM${x},${y}H${x + wide}V${y + tall}H${x}Z`,
    }),
    svg("rect", { class: "kept", x, y, width: wide, height: tall, "stroke-width": line }),
  );
  const size = about.bucket ? t("crops.bucket", { width: about.bucket[0], height: about.bucket[1] }) : "";
  return el("div.crop", {}, drawing, el("span.bucket", { text: size }));
}
