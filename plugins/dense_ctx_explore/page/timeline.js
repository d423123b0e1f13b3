// The timeline of a clip: the frame, marks of corrections and decisions, play, propagate.

import { send } from "./api.js";
import { onChange, store } from "./store.js";

const $ = (id) => document.getElementById(id);

export class Timeline {
  // open: shows a frame. ready: resolves when it is shown. say: tells the user.
  constructor(open, say) {
    Object.assign(this, { open, say, playing: false });
    $("frame").addEventListener("input", (event) => this.open(Number(event.target.value)));
    $("play").addEventListener("click", () => this.play());
    $("propagate").addEventListener("click", () => this.propagate());
    onChange(["state", "item"], () => this.draw());
    new ResizeObserver(() => this.draw()).observe($("marks"));
  }

  draw() {
    const { state } = store;
    $("timeline").hidden = !state?.clip;
    if (!state?.clip) return;
    $("frame").max = state.items.length - 1;
    $("frame").value = store.item;
    $("frame-value").value = `${store.item + 1} / ${state.items.length}`;
    this.drawMarks(state.items);
    this.showRun(state.propagation);
  }

  drawMarks(items) {
    const canvas = $("marks"), style = getComputedStyle(document.documentElement);
    const width = (canvas.width = canvas.clientWidth || 1), context = canvas.getContext("2d");
    const step = (width - 16) / Math.max(1, items.length - 1); // the thumb of a range is 16 pixels wide
    items.forEach((item, number) => {
      const x = 8 + number * step;
      const fill = (name, y, height, size) => {
        context.fillStyle = style.getPropertyValue(name);
        context.fillRect(x - size / 2, y, size, height);
      };
      if (item.status) fill(item.status === "accepted" ? "--good" : "--bad", 10, 4, Math.max(2, step));
      if (item.strokes) fill("--accent", 0, 9, 3);
    });
  }

  showRun({ running, done, total, error }) {
    $("progress").hidden = !running;
    $("progress").value = total ? done / total : 0;
    $("propagate").textContent = running ? `Stop · ${done} / ${total}` : "Propagate";
    if (error && error !== this.error) this.say(error);
    this.error = error;
  }

  async propagate() {
    try {
      const running = store.state.propagation.running;
      const { propagation } = await send(running ? "DELETE" : "POST", "/api/propagate", running ? null : { start: null, stop: null });
      store.state.propagation = propagation;
      this.showRun(propagation);
    } catch (error) { this.say(error.message); }
  }

  async play() {
    this.playing = !this.playing;
    $("play").ariaLabel = this.playing ? "Pause" : "Play";
    $("play").querySelector("use").setAttribute("href", this.playing ? "#i-pause" : "#i-play");
    while (this.playing) {
      const next = store.item + 1;
      if (next >= store.state.items.length) return this.play();
      await Promise.all([this.open(next), new Promise((resolve) => setTimeout(resolve, 60))]);
    }
  }
}
