// The exported model in ONNX Runtime for browsers: an image to features, all in the page.

import * as ort from "./ort/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send

/** Loads model.onnx and its facts: name, height, width. */
export async function openModel() {
  const response = await fetch("facts.json");
  if (!response.ok) throw new Error("facts.json is missing: build the page with build.py");
  const facts = await response.json();
  const session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  return { ...facts, encode: (image) => encode(session, facts, image) };
}

// RGBA pixels of the model's size to features [D, N].
async function encode(session, { height, width }, { data }) {
  const plane = height * width, input = new Float32Array(3 * plane);
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) input[c * plane + i] = data[4 * i + c] / 255;
  }
  const outputs = await session.run({ image: new ort.Tensor("float32", input, [1, 3, height, width]) });
  const { pixels } = outputs;
  const values = pixels.data, dims = pixels.dims[1];
  for (const name of Object.keys(outputs)) if (name !== "pixels") outputs[name].dispose();
  return { values, dims };
}
