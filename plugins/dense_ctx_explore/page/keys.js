// The keyboard. Every key is in the list that the help shows.

import { onChange, store, update } from "./store.js";

const $ = (id) => document.getElementById(id);
const press = (id) => () => $(id).click();

export const LIST = [
  ["1 … 9", "class to paint"],
  ["b e", "brush, eraser"],
  ["s", "pick a pixel: what is like it?"],
  ["h", "pan; the middle button does too"],
  ["[ ]", "smaller, larger brush"],
  ["Ctrl+Z Ctrl+Shift+Z", "undo, redo"],
  ["← →", "item before, after"],
  ["n", "the item whose strokes teach most"],
  ["a x", "accept, reject"],
  ["m u p", "mask, uncertainty, PCA"],
  ["t", "show or hide strokes"],
  ["Space", "hold: the bare image"],
  ["+ − 0", "zoom in, out, fit; the wheel too"],
  ["g", "gallery"],
  ["k r", "clip: play, propagate"],
  ["?", "this list"],
];

export function setUp(stage, go, actions) {
  const radius = (factor) => () => update({ radius: Math.min(100, Math.max(1, Math.round(store.radius * factor + (factor > 1 ? 1 : -1)))) });
  const centre = (factor) => () => { const [width, height] = stage.viewSize; stage.zoomAt(factor, width / 2, height / 2); };
  const keys = {
    b: () => update({ tool: "brush" }), e: () => update({ tool: "eraser" }), h: () => update({ tool: "pan" }),
    s: () => actions.view("similarity"), m: () => actions.view("labels"), u: () => actions.view("uncertainty"), p: () => actions.view("pca"),
    "[": radius(1 / 1.25), "]": radius(1.25), ArrowLeft: () => go(store.item - 1), ArrowRight: () => go(store.item + 1),
    n: press("next"), a: press("accept"), x: press("reject"), g: press("open-gallery"), "?": press("open-help"),
    t: () => update({ strokes: !store.strokes }), k: press("play"), r: press("propagate"),
    "+": centre(1.4), "=": centre(1.4), "-": centre(1 / 1.4), "−": centre(1 / 1.4), 0: () => stage.fit(),
    Home: () => go(0), End: () => go(store.state.items.length - 1),
  };
  addEventListener("keydown", (event) => {
    const field = event.target.closest("input:not([type=range]):not([type=checkbox]), select, textarea");
    if (field || document.querySelector("dialog[open]")) return;
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
      $(event.shiftKey ? "redo" : "undo").click();
      return event.preventDefault();
    }
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "y") {
      $("redo").click();
      return event.preventDefault();
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
    if (/^[1-9]$/.test(event.key)) {
      const chosen = store.state.classes[Number(event.key) - 1];
      if (chosen) update({ classId: chosen.id, tool: "brush" });
    } else if (event.key === " " && !event.target.closest("button")) {
      stage.bare = true;
      stage.place();
    } else if (keys[event.key]) {
      if ((event.key === "k" || event.key === "r") && !store.state.clip) return;
      keys[event.key]();
    } else return;
    event.preventDefault();
  });
  addEventListener("keyup", (event) => {
    if (event.key === " " && stage.bare) { stage.bare = false; stage.place(); }
  });
  onChange(["tool"], () => { stage.root.dataset.tool = store.tool; });
  stage.root.dataset.tool = store.tool;
}
