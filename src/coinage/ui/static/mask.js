/** Paint a mask: white is learned, black is not. With the mouse, a pen, a finger or the keyboard. */

import { call, put } from "./api.js";
import { el } from "./dom.js";
import { act, ask, openDialog, toast } from "./notices.js";
import { t } from "./texts.js";

const LONGEST = 1024; // pixels of the longer side that is painted on, and the least
const SHORTEST = 512;
const MOST_UNDO = 20;
const STEP = 0.02; // of the longer side, for an arrow key
const TINT = [179, 0, 94]; // over what is not learned

/**
 * Open the dialog for an image's mask.
 * @param {{address: string, image: {name: string, width: number, height: number, mask?: boolean}, saved:
 *   function(boolean): void}} about
 */
export async function openMask({ address, image, saved }) {
  const longer = Math.max(image.width, image.height);
  const share = Math.min(Math.max(1, SHORTEST / longer), LONGEST / longer);
  const wide = Math.max(1, Math.round(image.width * share));
  const tall = Math.max(1, Math.round(image.height * share));
  const canvas = el("canvas", {
    width: wide,
    height: tall,
    tabindex: 0,
    role: "application",
    "aria-label": t("mask.canvas"),
    "aria-describedby": "mask-keys",
  });
  canvas.style.width = `min(100%, ${Math.round((62 * wide) / tall)}dvh)`;
  const view = canvas.getContext("2d");
  const mask = document.createElement("canvas");
  mask.width = wide;
  mask.height = tall;
  const paint = mask.getContext("2d", { willReadFrequently: true });
  const picture = await loaded(`${address}/full`);
  const undo = [];
  let erasing = false;
  let cursor = null;
  let pen = null;

  const size = el("input", { id: "brush", type: "range", min: 1, max: 40, value: 8, oninput: draw });
  const erase = el("input", {
    type: "checkbox",
    onchange: () => {
      erasing = erase.checked;
    },
  });
  const back = el("button.small", { type: "button", text: t("undo"), disabled: true, onclick: takeBack });
  const tool = (text, run) =>
    el("button.small", {
      type: "button",
      text,
      onclick: () => {
        remember();
        run();
        draw();
      },
    });
  const file = el("input", {
    type: "file",
    accept: "image/*",
    hidden: true,
    "aria-label": t("mask.file"),
    onchange: () => fromFile(file.files[0]),
  });
  const radius = () => ((Number(size.value) / 100) * Math.max(wide, tall)) / 2;

  fill("#fff");
  if (image.mask) await fromImage(await loaded(`${address}/mask?${Date.now()}`));

  function fill(colour) {
    paint.fillStyle = colour;
    paint.fillRect(0, 0, wide, tall);
  }
  function invert() {
    paint.globalCompositeOperation = "difference";
    fill("#fff");
    paint.globalCompositeOperation = "source-over";
  }
  function remember() {
    undo.push(paint.getImageData(0, 0, wide, tall));
    if (undo.length > MOST_UNDO) undo.shift();
    back.disabled = false;
  }
  function takeBack() {
    if (!undo.length) return;
    paint.putImageData(undo.pop(), 0, 0);
    back.disabled = !undo.length;
    draw();
  }
  async function fromImage(source) {
    paint.drawImage(source, 0, 0, wide, tall);
  }
  async function fromFile(chosen) {
    if (!chosen) return;
    await act(null, async () => {
      const bitmap = await createImageBitmap(chosen).catch(() => {
        throw new Error(t("mask.unreadable", { name: chosen.name }));
      });
      remember();
      await fromImage(bitmap);
      draw();
    });
  }

  function draw() {
    view.drawImage(picture, 0, 0, wide, tall);
    const shade = paint.getImageData(0, 0, wide, tall);
    for (let i = 0; i < shade.data.length; i += 4) {
      const dark = 255 - shade.data[i];
      [shade.data[i], shade.data[i + 1], shade.data[i + 2]] = TINT;
      shade.data[i + 3] = dark * 0.62;
    }
    const layer = document.createElement("canvas");
    layer.width = wide;
    layer.height = tall;
    layer.getContext("2d").putImageData(shade, 0, 0);
    view.drawImage(layer, 0, 0);
    if (!cursor) return;
    for (const [colour, width] of [
      ["#000", 3],
      ["#fff", 1.5],
    ]) {
      view.strokeStyle = colour;
      view.lineWidth = (width * wide) / Math.max(1, canvas.clientWidth);
      view.beginPath();
      view.arc(cursor.x, cursor.y, radius(), 0, 7);
      view.stroke();
    }
  }
  function stroke(from, to) {
    paint.strokeStyle = erasing ? "#fff" : "#000";
    paint.lineWidth = radius() * 2;
    paint.lineCap = "round";
    paint.beginPath();
    paint.moveTo(from.x, from.y);
    paint.lineTo(to.x + 0.01, to.y);
    paint.stroke();
  }
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) * wide) / box.width,
      y: ((event.clientY - box.top) * tall) / box.height,
    };
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    remember();
    pen = place(event);
    stroke(pen, pen);
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    cursor = place(event);
    if (pen) {
      stroke(pen, cursor);
      pen = cursor;
    }
    draw();
  });
  canvas.addEventListener("pointerup", () => {
    pen = null;
  });
  canvas.addEventListener("pointercancel", () => {
    pen = null;
  });
  canvas.addEventListener("pointerleave", () => {
    cursor = null;
    draw();
  });
  canvas.addEventListener("focus", () => {
    cursor ??= { x: wide / 2, y: tall / 2 };
    draw();
  });
  canvas.addEventListener("keydown", (event) => {
    const far = STEP * Math.max(wide, tall);
    const ways = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
    const keys = {
      "[": () => {
        size.stepDown();
      },
      "]": () => {
        size.stepUp();
      },
      e: () => {
        erasing = !erasing;
        erase.checked = erasing;
      },
      i: () => {
        remember();
        invert();
      },
      z: takeBack,
      " ": () => {
        remember();
        stroke(cursor, cursor);
      },
    };
    const way = ways[event.key];
    if (!way && !keys[event.key]) return;
    event.preventDefault();
    cursor ??= { x: wide / 2, y: tall / 2 };
    if (way) {
      const next = { x: clamp(cursor.x + way[0], wide), y: clamp(cursor.y + way[1], tall) };
      if (event.shiftKey) {
        remember();
        stroke(cursor, next);
      }
      cursor = next;
    } else keys[event.key]();
    draw();
  });

  const save = el("button.primary", {
    type: "button",
    text: t("mask.save"),
    onclick: () =>
      act(save, async () => {
        const blob = await new Promise((resolve) => {
          mask.toBlob(resolve, "image/png");
        });
        await put(`${address.slice(4)}/mask`, blob);
        saved(true);
        dialog.close();
        toast(t("mask.saved"));
      }),
  });
  const remove = el("button.danger", {
    type: "button",
    text: t("mask.remove"),
    hidden: !image.mask,
    onclick: () =>
      act(remove, async () => {
        if (!(await ask(t("mask.remove.ask"), t("mask.remove")))) return;
        await call("DELETE", `${address.slice(4)}/mask`);
        saved(false);
        dialog.close();
      }),
  });
  const dialog = openDialog(
    t("mask.title", { name: image.name }),
    [
      el("p.lead", { text: t("mask.lead") }),
      el(
        "div.mask-tools",
        {},
        el("label", { for: "brush", text: t("mask.brush") }),
        size,
        el("label.check", {}, erase, t("mask.erase")),
        tool(t("mask.invert"), invert),
        tool(t("mask.clear"), () => fill("#fff")),
        back,
        el("button.small", { type: "button", text: t("mask.file"), onclick: () => file.click() }),
        file,
      ),
      el("div.canvas", {}, canvas),
      el("p.soft", { id: "mask-keys", text: t("mask.keys") }),
      el(
        "div.buttons.end",
        {},
        remove,
        el("button", { type: "button", text: t("cancel"), onclick: () => dialog.close() }),
        save,
      ),
    ],
    { large: true },
  );
  dialog.addEventListener("dragover", (event) => event.preventDefault());
  dialog.addEventListener("drop", (event) => {
    event.preventDefault();
    fromFile(event.dataTransfer.files[0]);
  });
  draw();
}

function clamp(value, most) {
  return Math.min(most, Math.max(0, value));
}

function loaded(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error(t("mask.no.image")));
    image.src = address;
  });
}
