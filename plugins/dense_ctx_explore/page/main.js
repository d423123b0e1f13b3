// The page: puts its parts together, opens items, and follows what changes on the server.

import { ApiError, get } from "./api.js";
import { Cards } from "./cards.js";
import * as dialogs from "./dialogs.js";
import * as keys from "./keys.js";
import { Painter } from "./painter.js";
import * as panels from "./panels.js";
import { Queue } from "./queue.js";
import { Stage } from "./stage.js";
import { currentItem, onChange, store, update } from "./store.js";
import { Timeline } from "./timeline.js";

const $ = (id) => document.getElementById(id);
const { say } = dialogs;

let known = []; // strokes of the current item, as the server has them
let sentHere = 0; // the newest revision that an edit of this tab made
let painter, queue, stage, strip, gallery, timeline;

async function start() {
  store.state = await get("/api/state");
  queue = new Queue(store.state.identity);
  stage = new Stage($("stage"), strokesNow);
  stage.setModels(store.state.models);
  painter = new Painter(stage, queue, say, () => { if (!queue.waiting.length) quietly(reload()); });
  strip = new Cards($("strip"), go);
  gallery = new Cards($("cards"), (number) => { $("gallery").close(); go(number); }, true);
  timeline = new Timeline(go, say);
  panels.setUp(queue);
  dialogs.setUp(keys.LIST);
  keys.setUp(stage, go, { view: panels.showView });
  listen();
  document.title = `${currentItem().name.split("/")[0].replace(/\.\w+$/, "")} · explore`;
  update({ state: { ...store.state } });
  const place = Number(location.hash.slice(1)) - 1 || 0;
  await go(Math.max(0, Math.min(store.state.items.length - 1, place)), true);
  document.body.dataset.ready = "yes";
  follow();
}

function listen() {
  queue.addEventListener("change", showSaved);
  queue.addEventListener("failed", ({ detail }) => { showSaved(); if (detail instanceof ApiError) say(detail.message, "error"); });
  queue.addEventListener("refused", ({ detail }) => { say(detail.message, "error"); refreshStrokes(); stage.drawStrokes(); });
  queue.addEventListener("answered", ({ detail }) => answered(detail));
  onChange(["view", "pick"], () => { stage.refresh(); strip.stale(); hint(null); });
  onChange(["state"], () => { strip.show(store.state.items.map((_, number) => number)); if ($("gallery").open) showGallery(); });
  document.addEventListener("overlay", ({ detail }) => hint(detail));
  document.addEventListener("class-added", async ({ detail }) => { await quietly(reload()); update({ classId: detail, tool: "brush" }); });
  $("previous").addEventListener("click", () => go(store.item - 1));
  $("following").addEventListener("click", () => go(store.item + 1));
  $("fit").addEventListener("click", () => stage.fit());
  $("next").addEventListener("click", suggest);
  $("open-gallery").addEventListener("click", () => { dialogs.open("gallery"); showGallery(); });
  for (const name of ["gallery-filter", "gallery-order"]) $(name).addEventListener("change", showGallery);
  $("theme").addEventListener("click", switchTheme);
  addEventListener("beforeunload", (event) => { if (queue.waiting.length) event.preventDefault(); });
}

// ---------------------------------------------------------------- items

let opening = Promise.resolve();

async function go(number, first = false) {
  if (number < 0 || number >= store.state.items.length || (number === store.item && !first)) return;
  update({ item: number });
  history.replaceState(null, "", `#${number + 1}`);
  known = [];
  strip.marks();
  strip.reveal(number);
  opening = stage.open(number);
  await opening;
  await Promise.all([refreshStrokes(), stage.refresh()]);
}

async function suggest() {
  $("next").disabled = true;
  try {
    const { item } = await get("/api/next");
    if (item === store.item) say("This is the item whose strokes would teach most.");
    await go(item);
  } catch (error) { say(error.message, "error"); }
  $("next").disabled = false;
}

async function showGallery() {
  const filter = $("gallery-filter").value, { items } = store.state;
  const keeps = { all: () => true, open: (item) => !item.status, strokes: (item) => item.strokes > 0 }[filter] ?? ((item) => item.status === filter);
  const numbers = items.map((_, number) => number).filter((number) => keeps(items[number]));
  if ($("gallery-order").value === "uncertain") {
    const { revision } = store.state, values = new Map();
    for (const number of numbers) {
      $("gallery-count").textContent = `looking at ${values.size + 1} of ${numbers.length}`;
      values.set(number, (await get(`/api/items/${number}/summary`).catch(() => ({ uncertainty: -1 }))).uncertainty);
      if (revision !== store.state.revision || $("gallery-order").value !== "uncertain" || !$("gallery").open) return;
    }
    numbers.sort((a, b) => values.get(b) - values.get(a));
  }
  $("gallery-count").textContent = `${numbers.length} of ${items.length}`;
  gallery.show(numbers);
}

// ---------------------------------------------------------------- strokes

// Those of the server, those on their way, and the one that is drawn, in this order.
function strokesNow() {
  const parts = new Set(queue.waiting.map((edit) => edit.extends));
  const moving = queue.waiting.filter((edit) => edit.edit === "stroke" && edit.item === store.item && !parts.has(edit.id));
  const drawn = painter?.stroke?.item === store.item ? [painter.stroke] : [];
  return [...known, ...moving, ...drawn];
}

async function refreshStrokes() {
  const number = store.item;
  try {
    const { strokes } = await get(`/api/items/${number}/strokes`);
    if (number !== store.item) return;
    known = strokes;
    stage.drawStrokes();
  } catch { /* they come with the next change */ }
}

async function answered({ edit, answer }) {
  if (!answer) return;
  sentHere = Math.max(sentHere, answer.revision);
  if (edit.edit === "stroke" && edit.item === store.item) {
    if (edit.extends) known.pop();
    known.push(edit);
  }
  if (queue.waiting.length) return;
  if (["undo", "redo"].includes(edit.edit) && answer.result?.length && !answer.result.includes(store.item)) {
    await go(answer.result[0]); // what changed is to be seen
  }
  stage.refresh();
  if (!painter.stroke) await quietly(reload());
}

// ---------------------------------------------------------------- what changes on the server

let reloading = null, again = false;

// The newest state. Whoever asks while one is on its way gets the one after it, which knows of what happened meanwhile.
function reload() {
  again = true;
  reloading ??= (async () => {
    while (again) {
      again = false;
      const before = store.state.revision;
      const state = await get("/api/state");
      update({ state });
      if (state.revision !== before) { strip.stale(); if ($("gallery").open) gallery.stale(); }
      if (!painter.stroke && !queue.waiting.length) await refreshStrokes();
    }
  })().finally(() => { reloading = null; });
  return reloading;
}

// Of a server that is gone `follow` tells, and reads the state when it is back.
const quietly = (promise) => promise.catch((error) => { if (error instanceof ApiError) say(error.message, "error"); });

// One request that waits for a change, as long as the tab is seen.
async function follow() {
  let { tick } = store.state, failures = 0;
  for (;;) {
    if (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    try {
      const change = await get("/api/changes", { since: tick, wait: 25 });
      if (failures) await reload();
      failures = 0;
      if (change.tick === tick) continue;
      tick = change.tick;
      if (change.revision !== store.state.revision && change.revision !== sentHere) {
        await reload();
        stage.refresh();
      }
      followRun(change.propagation);
    } catch (error) {
      if (error instanceof ApiError && [401, 403].includes(error.status)) return say(error.message, "error");
      failures += 1;
      tick = 0; // a server that began again counts from the beginning
      $("saved").textContent = "not connected";
      $("saved").className = "saved bad";
      await new Promise((resolve) => setTimeout(resolve, Math.min(5000, 400 * failures)));
    } finally { if (!failures) showSaved(); }
  }
}

function followRun(propagation) {
  const before = store.state.propagation;
  if (JSON.stringify(before) === JSON.stringify(propagation)) return;
  store.state.propagation = propagation;
  timeline.showRun(propagation);
  if (before.running && !propagation.running) {
    strip.stale();
    if (!propagation.error) say("Propagated.");
  }
  stage.refresh();
}

function showSaved() {
  const count = queue.waiting.length, late = queue.failures > 0;
  // of one width whatever it says: the image must not move under the brush
  $("saved").textContent = late ? `${count} unsaved` : count ? "saving" : "saved";
  $("saved").title = late ? `${count} edit${count === 1 ? "" : "s"} wait for the server, kept in this browser` : "";
  $("saved").className = late ? "saved bad" : count ? "saved busy" : "saved";
}

// ---------------------------------------------------------------- what lies over the image

function hint(error) {
  const { state, view, pick } = store, painted = state.items.some((item) => item.strokes) || known.length;
  let text = "";
  if (view === "similarity" && !pick) text = "Click a pixel: what is like it lights up, here and in the other items.";
  else if (error) text = error.message;
  else if (view === "labels" && !painted) text = "Paint a stroke on each of two classes. The mask follows, here and in the other items.";
  $("hint").textContent = text;
  $("hint").hidden = !text;
}

function switchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  try { localStorage.setItem("dense-ctx-theme", document.documentElement.dataset.theme); } catch { /* for this visit alone */ }
  timeline.draw();
}

try { const theme = localStorage.getItem("dense-ctx-theme"); if (theme) document.documentElement.dataset.theme = theme; } catch { /* the system's */ }
start().catch((error) => say(error.message, "error"));
