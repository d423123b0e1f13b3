// The page: an image, strokes of several classes over it, and the mask that follows.

import { openModel } from "./model.js";
import { fitRidge, predictRidge } from "./ridge.js";

const COLOURS = ["#4b8bf5", "#f2762e", "#2fae66", "#c857c9", "#d9b01c", "#e0455a", "#2bb6c4", "#8a6d3b"];
const get = (id) => document.getElementById(id);
const [picture, mask, strokes] = ["picture", "mask", "strokes"].map(get);
const say = (text) => { get("status").textContent = text; };

const state = { model: null, features: null, classes: [], active: 1, drawn: [], coefficients: null, strokeLabels: null, labels: null, video: null, run: 0 };
window.page = state; // for tests and the curious

function addClass(name) {
  const id = state.classes.length;
  if (id === COLOURS.length) return say(`No more than ${COLOURS.length} classes here.`);
  state.classes.push({ name, colour: COLOURS[id] });
  const label = document.createElement("label");
  const [choice, swatch, text] = ["input", "span", "input"].map((tag) => document.createElement(tag));
  Object.assign(choice, { type: "radio", name: "class", value: id, checked: id === state.active });
  choice.addEventListener("change", () => { state.active = id; });
  swatch.className = "swatch";
  swatch.style.background = COLOURS[id];
  Object.assign(text, { type: "text", value: name, ariaLabel: `Name of class ${id}` });
  text.addEventListener("input", () => { state.classes[id].name = text.value; });
  label.append(choice, swatch, text);
  get("classes").append(label);
}

// ---- images ----------------------------------------------------------------------------------------------------

/** Shows an image or a video's frame in the model's shape, cut to it around the middle. */
function show(source, width, height) {
  const scale = Math.max(picture.width / width, picture.height / height);
  const [w, h] = [width * scale, height * scale];
  picture.getContext("2d").drawImage(source, (picture.width - w) / 2, (picture.height - h) / 2, w, h);
  get("hint").hidden = true;
}

async function encode() {
  const run = ++state.run, started = performance.now();
  const image = picture.getContext("2d").getImageData(0, 0, picture.width, picture.height);
  const features = await state.model.encode(image);
  if (run !== state.run) return false; // another image came meanwhile
  state.features = features;
  say(`Features in ${Math.round(performance.now() - started)} ms. Draw over two classes.`);
  return true;
}

async function openPhoto(file) {
  if (!file || !state.model) return;
  stopWebcam();
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return say(`${file.name} is not an image that this browser reads: give a JPEG, PNG or WebP.`);
  }
  clearStrokes();
  state.coefficients = state.features = state.labels = null;
  show(bitmap, bitmap.width, bitmap.height);
  say("Computing features ...");
  if (await encode()) segment();
}

// ---- strokes ---------------------------------------------------------------------------------------------------

function clearStrokes() {
  state.drawn = [];
  paint();
  mask.getContext("2d").clearRect(0, 0, mask.width, mask.height);
}

function paint() {
  const context = strokes.getContext("2d");
  context.clearRect(0, 0, strokes.width, strokes.height);
  Object.assign(context, { lineCap: "round", lineJoin: "round" });
  for (const { points, size, id } of state.drawn) {
    Object.assign(context, { lineWidth: size, strokeStyle: COLOURS[id] });
    context.beginPath();
    points.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (points.length === 1) context.lineTo(points[0][0] + 0.01, points[0][1]);
    context.stroke();
  }
}

/** Class ids of the pixels within half a brush of a stroke, 255 elsewhere; later strokes win. */
function strokeLabels() {
  const { width, height } = picture, labels = new Uint8Array(width * height).fill(255);
  for (const { points, size, id } of state.drawn) {
    const radius = size / 2;
    points.forEach(([x, y], index) => {
      const [px, py] = points[Math.max(0, index - 1)];
      const [dx, dy] = [x - px, y - py], length = dx * dx + dy * dy;
      const [top, bottom] = [Math.min(y, py) - radius, Math.max(y, py) + radius].map(Math.round);
      const [left, right] = [Math.min(x, px) - radius, Math.max(x, px) + radius].map(Math.round);
      for (let r = Math.max(0, top); r <= Math.min(height - 1, bottom); r++) {
        for (let c = Math.max(0, left); c <= Math.min(width - 1, right); c++) {
          const along = length ? Math.max(0, Math.min(1, ((c - px) * dx + (r - py) * dy) / length)) : 0;
          if (Math.hypot(c - px - along * dx, r - py - along * dy) <= radius) labels[r * width + c] = id;
        }
      }
    });
  }
  return labels;
}

function place(event) {
  const box = strokes.getBoundingClientRect();
  return [((event.clientX - box.left) * strokes.width) / box.width, ((event.clientY - box.top) * strokes.height) / box.height];
}

let current = null;
strokes.addEventListener("pointerdown", (event) => {
  if (!state.features) return say("First open a photo or the webcam.");
  strokes.setPointerCapture(event.pointerId);
  current = { points: [place(event)], size: Number(get("brush").value), id: state.active };
  state.drawn.push(current);
  paint();
});
strokes.addEventListener("pointermove", (event) => {
  if (!current) return;
  current.points.push(place(event));
  paint();
});
for (const end of ["pointerup", "pointercancel"]) {
  strokes.addEventListener(end, () => { if (current) { current = null; segment(); } });
}

// ---- the answer ------------------------------------------------------------------------------------------------

function segment() {
  if (!state.features) return;
  const labels = strokeLabels(), ids = new Set(labels);
  state.strokeLabels = labels;
  ids.delete(255);
  mask.getContext("2d").clearRect(0, 0, mask.width, mask.height);
  state.labels = state.coefficients = null;
  if (ids.size < 2) return say(ids.size ? "Now draw over something of another class." : "Draw over two classes.");
  const started = performance.now(), { values, dims } = state.features;
  try {
    state.coefficients = { ids, values: fitRidge(values, dims, labels, state.classes.length) };
  } catch (error) {
    return say(`No answer: ${error.message}.`);
  }
  apply();
  say(`Mask in ${Math.round(performance.now() - started)} ms.`);
}

function apply() {
  const { values, dims } = state.features, plane = picture.width * picture.height;
  state.labels = predictRidge(values, dims, plane, state.coefficients.values, state.coefficients.ids);
  const image = new ImageData(picture.width, picture.height), alpha = Math.round(2.55 * get("opacity").value);
  const colours = COLOURS.map((text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
  state.labels.forEach((label, index) => image.data.set([...colours[label], label ? alpha : alpha / 4], 4 * index));
  mask.getContext("2d").putImageData(image, 0, 0);
}

// ---- webcam ----------------------------------------------------------------------------------------------------

async function startWebcam() {
  if (!state.model) return;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
  } catch (error) {
    return say(`No webcam (${error.name}): allow it for this page, or open a photo. It needs https or localhost.`);
  }
  const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
  await video.play();
  state.video = video;
  get("freeze").hidden = false;
  clearStrokes();
  state.coefficients = state.labels = null;
  follow();
}

/** One frame after the other, as fast as features come; with strokes from a frozen frame, each is segmented. */
async function follow() {
  const video = state.video;
  while (state.video === video && video) {
    show(video, video.videoWidth, video.videoHeight);
    if ((await encode()) && state.coefficients && state.video === video) {
      apply();
      say("Live. Freeze to correct.");
    } else if (state.video === video) {
      say("Live. Freeze a frame, and draw over two classes.");
    }
    await new Promise((resume) => { setTimeout(resume); });
  }
}

function freeze() {
  if (state.video) {
    state.frozen = state.video;
    state.video = null;
    get("freeze").textContent = "Go on";
    say("Frozen. Draw over two classes, then go on.");
  } else if (state.frozen) {
    state.video = state.frozen;
    get("freeze").textContent = "Freeze";
    state.drawn = [];
    paint();
    follow();
  }
}

function stopWebcam() {
  const video = state.video ?? state.frozen;
  video?.srcObject.getTracks().forEach((track) => track.stop());
  state.video = state.frozen = null;
  get("freeze").hidden = true;
}

// ---- the controls ----------------------------------------------------------------------------------------------

get("file").addEventListener("change", (event) => openPhoto(event.target.files[0]));
get("webcam").addEventListener("click", startWebcam);
get("freeze").addEventListener("click", freeze);
get("add").addEventListener("click", () => addClass(`class ${state.classes.length}`));
get("undo").addEventListener("click", () => { state.drawn.pop(); paint(); segment(); });
get("clear").addEventListener("click", () => { clearStrokes(); segment(); });
get("brush").addEventListener("input", (event) => { get("brush-size").textContent = event.target.value; });
get("opacity").addEventListener("input", () => { if (state.coefficients && state.features) apply(); });
get("save").addEventListener("click", () => {
  if (!state.labels) return say("There is no mask yet: draw over two classes.");
  const canvas = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
  const image = new ImageData(picture.width, picture.height);
  state.labels.forEach((label, index) => image.data.set([label, label, label, 255], 4 * index));
  canvas.getContext("2d").putImageData(image, 0, 0);
  const link = Object.assign(document.createElement("a"), { download: "mask.png", href: canvas.toDataURL("image/png") });
  link.click();
  say(`mask.png: grey, one value a class (${state.classes.map((item, id) => `${id} ${item.name}`).join(", ")}).`);
});
const stage = get("stage");
stage.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("over"); });
stage.addEventListener("dragleave", () => stage.classList.remove("over"));
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  openPhoto(event.dataTransfer.files[0]);
});
window.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" && event.target.type === "text") return;
  if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); get("undo").click(); }
  const id = Number(event.key);
  if (event.key.match(/^[0-7]$/) && id < state.classes.length) document.querySelector(`input[name=class][value="${id}"]`).click();
});

addClass("background");
addClass("object");
try {
  state.model = await openModel();
  for (const canvas of [picture, mask, strokes]) Object.assign(canvas, { width: state.model.width, height: state.model.height });
  say(`${state.model.name} is loaded. Drop a photo.`);
} catch (error) {
  say(`The model could not be loaded: ${error.message}`);
}
