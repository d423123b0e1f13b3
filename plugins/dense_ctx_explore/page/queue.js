// Edits on their way to the server: in order, kept in the browser until they are answered, sent again after a failure.
// An id makes an edit that arrives twice count once, so that a dropped connection neither loses nor doubles a stroke.

import { ApiError, newId, send } from "./api.js";

const PAUSE = [300, 700, 1500, 3000, 5000]; // ms before another try

export class Queue extends EventTarget {
  // identity: of what the server shows; edits that wait for another one are not sent to this one
  constructor(identity) {
    super();
    this.place = `dense-ctx-edits-${identity}`;
    this.waiting = [];
    this.sending = false;
    this.failures = 0;
    this.answers = new Map();
    this.restore();
    addEventListener("online", () => this.hurry?.());
  }

  restore() {
    try {
      // what a tab left behind that was closed in between
      const left = JSON.parse(localStorage.getItem(this.place) ?? "[]");
      if (Array.isArray(left)) this.waiting.push(...left);
    } catch { /* unreadable: nothing to send */ }
    if (this.waiting.length) this.run();
  }

  keep() {
    try {
      if (this.waiting.length) localStorage.setItem(this.place, JSON.stringify(this.waiting));
      else localStorage.removeItem(this.place);
    } catch { /* storage is full or forbidden: the edits are still in memory */ }
    this.dispatchEvent(new Event("change"));
  }

  get last() { return this.waiting.at(-1); }

  // Returns a promise of the answer; null if the edit was refused.
  push(edit) {
    const entry = { id: newId(), ...edit };
    const before = this.waiting.at(-1);
    const unsent = before && !(this.sending && this.waiting.length === 1);
    if (unsent && entry.extends && entry.extends === before.id) {
      // a longer version of a stroke that is not on its way yet
      entry.extends = before.extends;
      if (entry.extends === undefined) delete entry.extends;
      this.waiting.pop();
    }
    this.waiting.push(entry);
    this.keep();
    const answer = new Promise((resolve) => this.answers.set(entry.id, resolve));
    this.run();
    return { id: entry.id, answer };
  }

  async run() {
    if (this.sending) return;
    this.sending = true;
    while (this.waiting.length) {
      const edit = this.waiting[0];
      try {
        const answer = await send("POST", "/api/edits", edit);
        this.failures = 0;
        this.done(edit, answer);
      } catch (error) {
        if (error instanceof ApiError && error.status === 409 && edit.extends) {
          delete edit.extends; // another tab painted in between: a stroke of its own
          edit.id = this.renamed(edit.id);
        } else if (error instanceof ApiError && error.status >= 400 && error.status < 500 && ![401, 403, 408, 429].includes(error.status)) {
          this.done(edit, null);
          this.dispatchEvent(new CustomEvent("refused", { detail: error }));
        } else {
          this.failures += 1;
          this.dispatchEvent(new CustomEvent("failed", { detail: error }));
          await this.pause();
        }
      }
    }
    this.sending = false;
    this.keep();
  }

  renamed(id) {
    const other = newId();
    const resolve = this.answers.get(id);
    if (resolve) this.answers.set(other, resolve);
    this.answers.delete(id);
    return other;
  }

  done(edit, answer) {
    this.waiting.shift();
    this.keep();
    this.answers.get(edit.id)?.(answer);
    this.answers.delete(edit.id);
    this.dispatchEvent(new CustomEvent("answered", { detail: { edit, answer } }));
  }

  pause() {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, PAUSE[Math.min(this.failures, PAUSE.length) - 1]);
      this.hurry = () => { clearTimeout(timer); resolve(); };
    });
  }
}
