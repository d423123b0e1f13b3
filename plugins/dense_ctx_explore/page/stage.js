// The stage: one view a model, all with the same zoom and the same place; in each the image, what the model makes of it,
// the strokes and the brush.

import { address, bitmap } from "./api.js";
import { brushRadius, classOf, currentItem, onChange, store } from "./store.js";

const MAX_ZOOM = 40;

export class Stage {
  // strokesOf: gives the strokes of the current item, those on their way among them
  constructor(root, strokesOf) {
    this.root = root;
    this.strokesOf = strokesOf;
    this.zoom = 1;
    this.left = this.top = 0; // of the image in a view, pixels of the screen
    this.views = [];
    this.fitted = true;
    this.bare = false; // the overlay is hidden for as long as a key is held
    new ResizeObserver(() => { if (this.fitted) this.fit(); else this.place(); }).observe(root);
    onChange(["opacity", "view", "pick"], () => this.place());
    onChange(["strokes", "view"], () => this.drawStrokes());
    onChange(["tool", "radius", "classId"], () => this.drawBrush());
    this.root.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  setModels(names) {
    for (const view of this.views) view.box.remove();
    this.views = names.map((name, model) => new View(this.root, name, model, names.length > 1));
  }

  // Show another item: its photograph first, what the model makes of it when it comes.
  async open(number) {
    const item = store.state.items[number];
    this.fit();
    await Promise.all(this.views.map((view) => view.open(number, item)));
    this.drawStrokes();
  }

  get viewSize() {
    const { clientWidth, clientHeight } = this.views[0].box;
    return [clientWidth, clientHeight];
  }

  fit() {
    if (!this.views.length) return;
    const [width, height] = this.viewSize, item = currentItem();
    this.zoom = Math.min((width - 24) / item.width, (height - 24) / item.height) || 1;
    this.left = (width - item.width * this.zoom) / 2;
    this.top = (height - item.height * this.zoom) / 2;
    this.fitted = true;
    this.place();
  }

  zoomAt(factor, x, y) {
    const [width, height] = this.viewSize, item = currentItem();
    const least = Math.min(1, (width - 24) / item.width, (height - 24) / item.height) / 2;
    const zoom = Math.min(MAX_ZOOM, Math.max(least, this.zoom * factor));
    this.left = x - (x - this.left) * (zoom / this.zoom);
    this.top = y - (y - this.top) * (zoom / this.zoom);
    this.zoom = zoom;
    this.fitted = false;
    this.place();
  }

  pan(dx, dy) {
    const [width, height] = this.viewSize, item = currentItem();
    const within = (value, size, room) => Math.min(room - 40, Math.max(40 - size, value));
    this.left = within(this.left + dx, item.width * this.zoom, width);
    this.top = within(this.top + dy, item.height * this.zoom, height);
    this.fitted = false;
    this.place();
  }

  wheel(event) {
    event.preventDefault();
    const view = this.viewAt(event.target);
    if (!view) return;
    if (event.shiftKey) return this.pan(-event.deltaY - event.deltaX, 0);
    const box = view.box.getBoundingClientRect();
    this.zoomAt(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - box.left, event.clientY - box.top);
  }

  viewAt(element) { return this.views.find((view) => view.box.contains(element)); }

  // Pixels of the image under a pointer; outside of it too.
  pointAt(view, event) {
    const box = view.box.getBoundingClientRect();
    return [(event.clientX - box.left - this.left) / this.zoom, (event.clientY - box.top - this.top) / this.zoom];
  }

  place() {
    const item = currentItem();
    for (const view of this.views) view.place(this, item);
  }

  // The side in which pictures are asked for: as many pixels as the screen shows, in steps, so that few sizes are made.
  get side() {
    const item = currentItem();
    const shown = Math.max(item.width, item.height) * this.zoom * (window.devicePixelRatio || 1);
    return Math.min(1536, Math.max(256, Math.ceil(shown / 256) * 256));
  }

  async refresh() {
    await Promise.all(this.views.map((view) => view.refresh(this.side)));
  }

  drawStrokes() {
    const shown = store.strokes && ["labels", "uncertainty"].includes(store.view) ? this.strokesOf() : [];
    for (const view of this.views) view.drawStrokes(shown, currentItem());
  }

  drawBrush(event) { for (const view of this.views) view.drawBrush(this, event); }
}

class View {
  constructor(root, name, model, named) {
    this.model = model;
    this.box = element("div", "view", root);
    this.layers = element("div", "layers", this.box);
    this.photo = element("img", "photo", this.layers);
    this.photo.alt = "";
    this.overlay = element("canvas", "overlay", this.layers);
    this.strokes = element("canvas", "strokes", this.layers);
    this.pick = element("i", "pick", this.layers);
    this.brush = element("div", "brush", this.box);
    this.brush.hidden = true;
    this.spinner = element("div", "spinner", this.box);
    if (named) element("div", "model-name", this.box).textContent = name;
    this.request = null;
    this.again = null;
  }

  async open(number, item) {
    this.number = number;
    this.clearOverlay();
    const longer = Math.max(item.width, item.height);
    const photo = new Image();
    photo.src = address(`/api/items/${number}/picture`, { side: Math.min(2048, Math.max(16, longer)), of: store.state.identity });
    await photo.decode().catch(() => {});
    if (this.number !== number) return;
    photo.className = "photo";
    photo.alt = item.name;
    photo.draggable = false;
    this.photo.replaceWith(photo);
    this.photo = photo;
  }

  clearOverlay() {
    this.overlay.width = this.overlay.height = 1;
    this.number === undefined || this.request?.abort();
  }

  place(stage, item) {
    const style = this.layers.style;
    style.width = `${item.width}px`;
    style.height = `${item.height}px`;
    style.transform = `translate(${stage.left}px, ${stage.top}px) scale(${stage.zoom})`;
    this.layers.classList.toggle("pixels", stage.zoom > 6);
    this.overlay.style.opacity = stage.bare ? 0 : store.opacity / 100;
    const { pick } = store;
    this.pick.hidden = store.view !== "similarity" || pick?.item !== store.item;
    if (this.pick.hidden) return;
    this.pick.style.left = `${pick.x + 0.5}px`;
    this.pick.style.top = `${pick.y + 0.5}px`;
    this.pick.style.scale = 1 / stage.zoom;
  }

  // The overlay of the current item. While one is on its way the newest wish waits, and replaces earlier ones.
  async refresh(side) {
    this.again = side;
    if (this.request) return;
    while (this.again) {
      const wanted = this.again, number = store.item;
      this.again = null;
      const [path, query] = overlayAddress(number, this.model, wanted);
      if (!path) { this.overlay.width = 1; continue; }
      this.request = new AbortController();
      this.spinner.classList.add("on");
      try {
        const picture = await bitmap(path, query, this.request.signal);
        if (number === store.item) this.show(picture);
        document.dispatchEvent(new CustomEvent("overlay", { detail: null }));
      } catch (error) {
        if (error.name !== "AbortError" && number === store.item) {
          this.overlay.width = 1;
          document.dispatchEvent(new CustomEvent("overlay", { detail: error }));
        }
      } finally {
        this.request = null;
        this.spinner.classList.remove("on");
      }
    }
  }

  show(picture) {
    this.overlay.width = picture.width;
    this.overlay.height = picture.height;
    this.overlay.getContext("2d").drawImage(picture, 0, 0);
    this.box.dataset.shown = String(Number(this.box.dataset.shown ?? 0) + 1);
    picture.close();
  }

  drawStrokes(strokes, item) {
    const scale = Math.min(1, 2048 / Math.max(item.width, item.height));
    this.strokes.width = Math.round(item.width * scale);
    this.strokes.height = Math.round(item.height * scale);
    const context = this.strokes.getContext("2d");
    context.scale(scale, scale);
    context.lineCap = context.lineJoin = "round";
    for (const stroke of strokes) {
      const colour = stroke.class === null ? "#000" : classOf(stroke.class)?.colour;
      if (!colour) continue;
      context.globalCompositeOperation = stroke.class === null ? "destination-out" : "source-over";
      context.strokeStyle = colour;
      context.lineWidth = 2 * stroke.radius;
      context.beginPath();
      stroke.points.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
      if (stroke.points.length === 1) context.lineTo(stroke.points[0][0] + 0.01, stroke.points[0][1]);
      context.stroke();
    }
  }

  drawBrush(stage, event) {
    const style = this.brush.style, paints = ["brush", "eraser"].includes(store.tool);
    this.box.dataset.tool = store.tool;
    if (event) {
      const box = this.box.getBoundingClientRect();
      const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
      this.brush.hidden = !inside;
      style.translate = `${event.clientX - box.left}px ${event.clientY - box.top}px`;
    }
    if (!paints) this.brush.hidden = true;
    const size = `${2 * brushRadius() * stage.zoom}px`;
    style.width = style.height = size;
    style.borderColor = store.tool === "eraser" ? "#fff" : classOf(store.classId)?.colour ?? "#fff";
  }
}

function overlayAddress(number, model, side) {
  if (store.view !== "similarity") return [`/api/items/${number}/${store.view}`, { side, model }];
  if (!store.pick) return [null, null];
  const { item, x, y } = store.pick;
  return [`/api/items/${number}/similarity`, { side, model, of: item, x, y }];
}

function element(tag, name, parent) {
  const made = document.createElement(tag);
  made.className = name;
  parent.append(made);
  return made;
}
