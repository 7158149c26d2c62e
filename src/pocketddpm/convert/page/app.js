// The page: reads the form, asks the worker, paints what comes back.
"use strict";

const NAMES = { ddim: "DDIM", dpmpp: "DPM-Solver++", consistency: "Consistency sampling" };
const at = (id) => document.getElementById(id);
let facts = null, worker = null, canvases = [], settings = null, busy = false;

function say(text) { at("status").textContent = text; }

function setBusy(now) {
  busy = now;
  for (const id of ["draw", "again"]) at(id).disabled = now || !facts;
  at("stop").disabled = !now;
  at("save").disabled = now || !canvases.length;
}

function begin(told) {
  facts = told;
  const [c, h, w] = facts.shape;
  at("about").textContent =
    `A denoising diffusion model for images of ${c}x${h}x${w}, trained on ${facts.name}. ` +
    `${NAMES[facts.sampler]} turns noise into images, a step at a time.`;
  at("steps").max = facts.alpha_bar.length - 1;
  at("steps").value = facts.steps;
  at("guidance").value = facts.guidance;
  at("guide").hidden = !facts.guidable;
  at("labels").hidden = !facts.classes.length;
  facts.classes.forEach((name, k) => {
    const label = document.createElement("label"), box = document.createElement("input");
    const span = document.createElement("span");
    Object.assign(box, { type: "checkbox", value: k, checked: true });
    span.textContent = name;
    label.append(box, span);
    at("classes").append(label);
  });
  setBusy(false);
  say("Ready.");
}

function labelsFor(count) {
  if (!facts.classes.length) return null;
  const chosen = [...document.querySelectorAll("#classes input:checked")].map((b) => +b.value);
  return chosen.length ? Array.from({ length: count }, (_, k) => chosen[k % chosen.length]) : [];
}

function nameOf(k) { return settings.labels ? facts.classes[settings.labels[k]] : ""; }

function draw() {
  if (busy || !facts || !at("form").reportValidity()) return;
  const count = +at("count").value, labels = labelsFor(count);
  if (labels && !labels.length) return say("Choose at least one class to draw.");
  settings = {
    seed: +at("seed").value, count, labels, steps: +at("steps").value,
    guidance: facts.guidable ? +at("guidance").value : 1,
  };
  const [, h, w] = facts.shape;
  canvases = Array.from({ length: count }, (_, k) => {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: w, height: h });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", nameOf(k) || `image ${k + 1}`);
    return canvas;
  });
  at("grid").replaceChildren(...canvases.map((canvas, k) => {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    caption.textContent = nameOf(k);
    figure.append(canvas, ...(labels ? [caption] : []));
    return figure;
  }));
  at("progress").value = 0;
  setBusy(true);
  say("Drawing …");
  worker.postMessage({ kind: "draw", settings });
}

function paint(bytes) {
  const [c, h, w] = facts.shape, plane = h * w;
  canvases.forEach((canvas, k) => {
    const pixels = new ImageData(w, h);
    for (let p = 0; p < plane; p++) {
      for (let channel = 0; channel < 3; channel++) {
        pixels.data[4 * p + channel] = bytes[k * c * plane + (c === 3 ? channel : 0) * plane + p];
      }
      pixels.data[4 * p + 3] = 255;
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  });
}

// A name as it fits into so many pixels: an ellipsis stands for its middle.
function fitting(context, name, room) {
  const letters = Array.from(name);
  let shown = name;
  for (let kept = letters.length - 1; kept > 0 && context.measureText(shown).width > room; kept--) {
    const end = Math.floor(kept / 2);
    shown = letters.slice(0, kept - end).join("") + "…" + letters.slice(letters.length - end).join("");
  }
  return shown;
}

function save() {
  const columns = Math.ceil(Math.sqrt(canvases.length)), rows = Math.ceil(canvases.length / columns);
  const [, h, w] = facts.shape, scale = Math.max(1, Math.ceil(56 / w)), gap = 4;
  const line = settings.labels ? 15 : 0, wide = w * scale + gap, high = h * scale + line + gap;
  const board = document.createElement("canvas");
  Object.assign(board, { width: columns * wide + gap, height: rows * high + gap });
  const context = board.getContext("2d");
  context.fillStyle = "#c0c0c0";
  context.fillRect(0, 0, board.width, board.height);
  Object.assign(context, {
    fillStyle: "#000", font: "10px system-ui, sans-serif", textAlign: "center",
    textBaseline: "middle", imageSmoothingEnabled: false,
  });
  canvases.forEach((canvas, k) => {
    const x = gap + (k % columns) * wide, y = gap + Math.floor(k / columns) * high;
    context.drawImage(canvas, x, y, w * scale, h * scale);
    context.fillText(fitting(context, nameOf(k), wide - 2), x + (w * scale) / 2, y + high - gap - line / 2);
  });
  const link = document.createElement("a");
  Object.assign(link, { href: board.toDataURL(), download: `seed-${settings.seed}.png` });
  link.click();
}

function heard({ data }) {
  if (data.kind === "ready") return begin(data.facts);
  if (data.kind === "frame") {
    paint(data.bytes);
    at("progress").value = data.step / settings.steps;
    return;
  }
  setBusy(false);
  if (data.kind === "error") return say(`That did not work: ${data.text}`);
  const { count, steps, seed } = settings, seconds = data.seconds;
  say(data.kind === "stopped" ? "Stopped." :
    `${count} images in ${seconds.toFixed(1)} s: ${(count / seconds).toFixed(1)} images per second ` +
    `(${steps} steps, seed ${seed}, one thread).`);
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); draw(); });
at("again").addEventListener("click", () => { at("seed").value = +at("seed").value + 1; draw(); });
at("stop").addEventListener("click", () => worker.postMessage({ kind: "stop" }));
at("save").addEventListener("click", save);

if (location.protocol === "file:") {
  at("about").textContent =
    "Browsers run no model from a file. Serve this folder instead, for instance with " +
    "“python -m http.server” in it, and open the address that it prints.";
} else {
  worker = new Worker("worker.js");
  worker.onmessage = heard;
  worker.onerror = (event) => say(`That did not work: ${event.message || "worker.js"}`);
}
