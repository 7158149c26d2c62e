// The sampler, as pocketddpm has it in Python: the same noise, the same times, the same steps.
// Image k depends on (seed, k), its label and the settings alone.
"use strict";

// The 64-bit product of two 32-bit words, as [high, low].
function multiply(a, b) {
  const al = a & 0xffff, ah = a >>> 16, bl = b & 0xffff, bh = b >>> 16;
  const low = al * bl, m1 = ah * bl + (low >>> 16), m2 = al * bh + (m1 & 0xffff);
  return [(ah * bh + Math.floor(m1 / 65536) + Math.floor(m2 / 65536)) >>> 0, Math.imul(a, b) >>> 0];
}

// Philox4x32-10 (Salmon et al. 2011): four words from four of counter and two of key.
function philox(counter, key) {
  let [c0, c1, c2, c3] = counter, [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [h0, l0] = multiply(0xd2511f53, c0), [h1, l1] = multiply(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(h1 ^ c1 ^ k0) >>> 0, l1, (h0 ^ c3 ^ k1) >>> 0, l0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

const START = 0, STEP = 1; // what noise is for: pocketddpm.noise.Role

// Standard normal noise of `size` numbers for image `index`: pocketddpm.noise.normal.
function normal(seed, index, size, role = START, step = 0) {
  const blocks = Math.ceil(size / 4), half = 2 * blocks, words = new Float32Array(4 * blocks);
  const key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0];
  for (let block = 0; block < blocks; block++) {
    words.set(philox([block, index >>> 0, step, role], key), 4 * block);
  }
  const noise = new Float32Array(size);
  for (let i = 0; i < half; i++) {
    const radius = Math.sqrt(-2 * Math.log(Math.min(1, (words[i] + 0.5) / 2 ** 32)));
    const angle = words[half + i] * ((2 * Math.PI) / 2 ** 32);
    if (i < size) noise[i] = radius * Math.cos(angle);
    if (half + i < size) noise[half + i] = radius * Math.sin(angle);
  }
  return noise;
}

// Pairs [t, alpha_bar] from T down to the clean image, as pocketddpm.diffusion.grid makes them.
function makeGrid(facts, steps) {
  const table = facts.alpha_bar, T = table.length - 1;
  if (facts.spacing === "karras") return [...karras(table, steps), [0, 1]];
  if (facts.spacing === "jumps") return [...jumps(table, steps), [0, 1]];
  return [...trailing(T, steps), 0].map((t) => [t, table[t]]);
}

// Evenly spaced times; halves go to the even number, as in Python.
function trailing(T, steps) {
  return Array.from({ length: steps }, (_, i) => {
    const exact = T - (i * T) / steps, whole = Math.floor(exact);
    const up = exact - whole > 0.5 || (exact - whole === 0.5 && whole % 2 === 1);
    return up ? whole + 1 : whole;
  });
}

const sigmaOf = (bar) => Math.sqrt((1 - bar) / bar);

// Even in sigma^(1/7) (arXiv 2206.00364, eq. 5), between the table's entries.
function karras(table, steps) {
  const rho = 7, T = table.length - 1;
  const low = sigmaOf(table[1]) ** (1 / rho), high = sigmaOf(table[T]) ** (1 / rho);
  return between(table, steps, (share) => -2 * Math.log((high + share * (low - high)) ** rho));
}

// Even in log-SNR down to sigma = 1, or half of where they start when that is less.
function jumps(table, steps) {
  const T = table.length - 1, from = sigmaOf(table[T]);
  const to = Math.max(Math.min(from / 2, 1), sigmaOf(table[1]));
  return between(table, steps, (s) => -2 * (Math.log(from) + s * (Math.log(to) - Math.log(from))));
}

// Pairs [t, alpha_bar] at the log-SNR of each share 0..1 of the way.
function between(table, steps, logSnrAt) {
  return Array.from({ length: steps }, (_, i) => {
    const logSnr = logSnrAt(steps > 1 ? i / (steps - 1) : 0);
    return [timeOf(table, logSnr), 1 / (1 + Math.exp(-logSnr))];
  });
}

// The time at which the schedule has this log-SNR: linear between the table's entries.
function timeOf(table, logSnr) {
  const at = (t) => Math.log(table[t]) - Math.log1p(-table[t]), T = table.length - 1;
  if (logSnr <= at(T)) return T;
  if (logSnr >= at(1)) return 1;
  let early = 1, late = T; // at(early) >= logSnr > at(late)
  while (late - early > 1) {
    const middle = (early + late) >> 1;
    if (at(middle) >= logSnr) early = middle; else late = middle;
  }
  return late - (logSnr - at(late)) / (at(early) - at(late));
}

// The clean image that the network's answer means, at x = a x0 + b eps.
function cleanImage(facts, output, x, a, b) {
  switch (facts.prediction) {
    case "eps": return (x - b * output) / a;
    case "x0": return output;
    case "v": return a * x - b * output;
  }
  const s = facts.sigma_data, n = Math.sqrt(b * b + a * a * s * s); // edm, arXiv 2206.00364
  return ((a * s * s) / (n * n)) * x + ((b * s) / n) * output;
}

function inputScale(facts, a, b) {
  return facts.prediction === "edm" ? 1 / Math.sqrt(b * b + (a * facts.sigma_data) ** 2) : 1;
}

const halfLogSnr = (bar) => (Math.log(bar) - Math.log1p(-bar)) / 2;

// Weights of the latest two estimates of the clean image on the step from bar to barNext: [1, 0] is
// DDIM (arXiv 2010.02502); DPM-Solver++ 2M (arXiv 2211.01095) draws a line through both.
function shares(facts, bar, barNext, barBefore) {
  const line = facts.sampler === "dpmpp" && barNext < 1 && barBefore !== null && barBefore > 0;
  if (!line) return [1, 0];
  const start = halfLogSnr(bar), r = (halfLogSnr(barBefore) - start) / (halfLogSnr(barNext) - start);
  return [1 - 1 / (2 * r), 1 / (2 * r)];
}

// ask(x, t, labels) -> the network's answers, both [n C H W] in rows. Calls show(step, x) after every
// step; stops when it returns false.
async function sample(facts, ask, show, { seed, labels, count, steps, guidance, first = 0 }) {
  const size = facts.shape.reduce((p, v) => p * v, 1), grid = makeGrid(facts, steps);
  let x = new Float32Array(count * size), before = null, barBefore = null;
  for (let k = 0; k < count; k++) x.set(normal(seed, first + k, size), k * size);
  if (!(await show(0, x))) return null;
  const guided = facts.null !== null && labels !== null && guidance !== 1;
  const none = guided ? labels.map(() => facts.null) : null;
  for (let i = 0; i < steps; i++) {
    const [t, bar] = grid[i], barNext = grid[i + 1][1];
    const a = Math.sqrt(bar), b = Math.sqrt(1 - bar), scale = inputScale(facts, a, b);
    const scaled = x.map((v) => v * scale);
    const strong = await ask(scaled, t, labels);
    const weak = guided ? await ask(scaled, t, none) : null;
    const clean = new Float32Array(x.length);
    for (let j = 0; j < x.length; j++) {
      const output = weak ? weak[j] + guidance * (strong[j] - weak[j]) : strong[j];
      clean[j] = cleanImage(facts, output, x[j], a, b);
      if (facts.clip) {
        const mean = facts.mean ? facts.mean[j % size] : 0;
        clean[j] = Math.min(facts.high - mean, Math.max(facts.low - mean, clean[j]));
      }
    }
    if (facts.sampler === "consistency") { // arXiv 2303.01469: the estimate, with fresh noise
      x = clean.map((v) => Math.sqrt(barNext) * v);
      for (let k = 0; k < count && barNext < 1; k++) {
        const fresh = normal(seed, first + k, size, STEP, i);
        for (let j = 0; j < size; j++) x[k * size + j] += Math.sqrt(1 - barNext) * fresh[j];
      }
    } else {
      const [now, then] = shares(facts, bar, barNext, barBefore);
      const ratio = Math.sqrt(1 - barNext) / b, weight = Math.sqrt(barNext) - a * ratio;
      const held = before ?? clean; // the first step has no estimate before it
      x = x.map((v, j) => ratio * v + weight * (now * clean[j] + then * held[j]));
      [before, barBefore] = [clean, bar];
    }
    if (!(await show(i + 1, x))) return null;
  }
  return x;
}

// Numbers of the model as bytes 0..255.
function toBytes(facts, x) {
  const size = facts.shape.reduce((p, v) => p * v, 1), bytes = new Uint8ClampedArray(x.length);
  for (let j = 0; j < x.length; j++) {
    const value = x[j] + (facts.mean ? facts.mean[j % size] : 0);
    bytes[j] = ((value - facts.low) * 255) / (facts.high - facts.low); // rounds and clamps
  }
  return bytes;
}

if (typeof module !== "undefined") module.exports = { philox, normal, makeGrid, sample, toBytes };
