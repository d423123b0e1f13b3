// Pointers on the stage: paint, erase, pick a pixel, pan; two fingers zoom.

import { brushRadius, currentItem, store, update } from "./store.js";

const LIVE = 120; // ms between the parts of a stroke that are sent while it is drawn

export class Painter {
  // ended: called when a stroke is drawn to its end
  constructor(stage, queue, say, ended) {
    Object.assign(this, { stage, queue, say, ended, stroke: null, panning: null, fingers: new Map() });
    const root = stage.root;
    root.addEventListener("pointerdown", (event) => this.down(event));
    root.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) root.addEventListener(name, (event) => this.up(event));
    root.addEventListener("pointerleave", () => { for (const view of stage.views) view.brush.hidden = true; });
    root.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  down(event) {
    const view = this.stage.viewAt(event.target);
    if (!view || event.button > 1) return;
    this.stage.root.setPointerCapture(event.pointerId);
    this.stage.root.focus({ preventScroll: true });
    if (event.pointerType === "touch") {
      this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (this.fingers.size === 2) { this.stroke = null; this.stage.drawStrokes(); return; }
    }
    this.view = view;
    const point = this.stage.pointAt(view, event);
    if (event.button === 1 || store.tool === "pan") {
      this.panning = [event.clientX, event.clientY];
      return;
    }
    if (store.tool === "similarity") return this.pick(point);
    if (store.tool === "brush" && store.classId === null) return this.say("Add a class first, and paint it.");
    const item = currentItem(), inside = this.inside(point);
    if (!inside) return;
    this.stroke = {
      item: store.item, class: store.tool === "eraser" ? null : store.classId, points: [point.map(rounded)],
      radius: brushRadius(item), sent: null, count: 0, at: performance.now(),
    };
    this.stage.drawStrokes();
  }

  inside([x, y]) {
    const item = currentItem();
    return x >= 0 && y >= 0 && x <= item.width && y <= item.height;
  }

  move(event) {
    this.stage.drawBrush(event);
    if (this.fingers.has(event.pointerId) && this.fingers.size === 2) return this.pinch(event);
    if (this.panning) {
      this.stage.pan(event.clientX - this.panning[0], event.clientY - this.panning[1]);
      this.panning = [event.clientX, event.clientY];
      return;
    }
    if (!this.stroke) return;
    const item = currentItem();
    for (const each of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
      const [x, y] = this.stage.pointAt(this.view, each);
      const point = [Math.min(item.width, Math.max(0, x)), Math.min(item.height, Math.max(0, y))].map(rounded);
      const last = this.stroke.points.at(-1);
      // points closer than half a pixel of the screen say nothing new
      if (Math.hypot(point[0] - last[0], point[1] - last[1]) * this.stage.zoom > 0.5 && this.stroke.points.length < 9000) {
        this.stroke.points.push(point);
      }
    }
    this.stage.drawStrokes();
    const now = performance.now();
    if (now - this.stroke.at > LIVE && !this.queue.waiting.length && this.stroke.points.length > this.stroke.count) {
      this.stroke.at = now;
      this.part();
    }
  }

  up(event) {
    this.fingers.delete(event.pointerId);
    this.panning = null;
    if (!this.stroke) return;
    if (this.stroke.points.length > this.stroke.count) this.part();
    this.stroke = null;
    this.stage.drawStrokes();
    this.ended();
  }

  // Send what is drawn so far; each part takes the place of the one before.
  part() {
    const { item, points, radius, sent } = this.stroke;
    const edit = { edit: "stroke", item, class: this.stroke.class, points: [...points], radius };
    if (sent) edit.extends = sent;
    this.stroke.sent = this.queue.push(edit).id;
    this.stroke.count = points.length;
  }

  pinch(event) {
    const before = [...this.fingers.values()];
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    const after = [...this.fingers.values()];
    const length = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    const middle = ([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    const box = (this.view ?? this.stage.views[0]).box.getBoundingClientRect();
    const [x, y] = middle(after), [u, v] = middle(before);
    this.stage.pan(x - u, y - v);
    this.stage.zoomAt(length(after) / length(before), x - box.left, y - box.top);
  }

  pick(point) {
    const item = currentItem();
    if (!this.inside(point)) return;
    const [x, y] = [Math.min(item.width - 1, Math.floor(point[0])), Math.min(item.height - 1, Math.floor(point[1]))];
    update({ pick: { item: store.item, x, y }, view: "similarity" });
  }
}

const rounded = (value) => Math.round(value * 10) / 10;
