// Runs the network, away from the page, so that it stays alive: one thread of WebAssembly.
"use strict";
importScripts("runtime/ort.wasm.min.js", "sampler.js");

ort.env.wasm.numThreads = 1;
ort.env.wasm.proxy = false;
ort.env.wasm.wasmPaths = new URL("runtime/", self.location.href).href;

let facts = null, session = null, stopped = false;

async function load() {
  const said = async (path) => {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return answer;
  };
  facts = await (await said("model.json")).json();
  const bytes = await (await said("model.onnx")).arrayBuffer();
  session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  postMessage({ kind: "ready", facts });
}

async function ask(x, t, labels) {
  const n = x.length / facts.shape.reduce((p, v) => p * v, 1);
  const inputs = {
    x: new ort.Tensor("float32", x, [n, ...facts.shape]),
    t: new ort.Tensor("float32", new Float32Array(n).fill(t), [n]),
  };
  if (facts.null !== null) {
    const y = labels ?? Array(n).fill(facts.null);
    inputs.y = new ort.Tensor("int64", BigInt64Array.from(y, BigInt), [n]);
  }
  const { data, dims } = (await session.run(inputs)).prediction;
  if (dims[1] === facts.shape[0]) return data;
  // A learned variance comes after the prediction of each image, and DDIM has no use for it.
  const size = x.length / n, both = data.length / n, kept = new Float32Array(x.length);
  for (let k = 0; k < n; k++) kept.set(data.subarray(k * both, k * both + size), k * size);
  return kept;
}

async function draw(settings) {
  stopped = false;
  const started = performance.now();
  const show = async (step, x) => {
    postMessage({ kind: "frame", step, bytes: toBytes(facts, x) });
    await new Promise((resolve) => setTimeout(resolve)); // lets a "stop" in
    return !stopped;
  };
  const done = await sample(facts, ask, show, settings);
  postMessage({ kind: done ? "done" : "stopped", seconds: (performance.now() - started) / 1000 });
}

onmessage = async ({ data }) => {
  try {
    if (data.kind === "stop") stopped = true;
    else await draw(data.settings);
  } catch (error) {
    postMessage({ kind: "error", text: String(error?.message ?? error) });
  }
};

load().catch((error) => postMessage({ kind: "error", text: String(error?.message ?? error) }));
