// Cards of items: photograph, labels or similarity over it, status, uncertainty. Pictures are asked for when a card is
// seen, two at a time, behind everything that the user waits for.

import { address, bitmap, get } from "./api.js";
import { store } from "./store.js";

const SIDE = 192, AT_ONCE = 2;
const waiting = [];
let running = 0;

function later(job) {
  waiting.push(job);
  pump();
}

async function pump() {
  if (running >= AT_ONCE || !waiting.length) return;
  running += 1;
  try { await waiting.shift()(); } catch { /* a card without its labels still shows the image */ }
  running -= 1;
  pump();
}

export class Cards {
  // open: called with an item's number. details: summaries too.
  constructor(root, open, details = false) {
    Object.assign(this, { root, open, details, cards: new Map(), seen: new Set() });
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const number = Number(target.dataset.item);
        if (isIntersecting) { this.seen.add(number); this.fill(number); } else this.seen.delete(number);
      }
    }, { root, rootMargin: "200px" });
    root.addEventListener("click", (event) => {
      const card = event.target.closest("[data-item]");
      if (card) open(Number(card.dataset.item));
    });
    root.addEventListener("keydown", (event) => this.key(event));
  }

  show(numbers) {
    if (this.numbers?.length === numbers.length && numbers.every((each, index) => each === this.numbers[index])) return this.marks();
    this.numbers = numbers;
    this.observer.disconnect();
    this.seen.clear();
    this.root.replaceChildren(...numbers.map((number) => this.card(number)));
    for (const card of this.root.children) this.observer.observe(card);
    this.marks();
  }

  card(number) {
    let card = this.cards.get(number);
    if (card) return card;
    card = document.createElement("button");
    card.className = "card";
    card.dataset.item = number;
    card.setAttribute("role", "option");
    card.innerHTML = `<span class="picture"><img alt="" loading="lazy"><canvas></canvas></span><span class="caption"></span><span class="meter" hidden><i></i></span>`;
    this.cards.set(number, card);
    return card;
  }

  // Status, strokes, which one is open: all that the state knows.
  marks() {
    for (const number of this.numbers ?? []) {
      const card = this.cards.get(number), item = store.state.items[number];
      card.setAttribute("aria-selected", String(number === store.item));
      card.tabIndex = number === store.item ? 0 : -1;
      card.dataset.status = item.status ?? "";
      card.classList.toggle("stroked", item.strokes > 0);
      card.querySelector(".caption").textContent = item.name.split("/").at(-1);
      card.title = [item.name, item.status, item.strokes ? `${item.strokes} strokes` : ""].filter(Boolean).join(" · ");
      card.ariaLabel = card.title;
    }
    if (this.numbers && !this.numbers.includes(store.item) && this.root.firstChild) this.root.firstChild.tabIndex = 0;
  }

  // The labels have changed: those that are seen are drawn again, others when they are seen.
  stale() {
    for (const card of this.cards.values()) delete card.dataset.labels;
    for (const number of this.seen) this.fill(number);
  }

  fill(number) {
    const card = this.cards.get(number), key = this.key_();
    const photo = card.querySelector("img");
    if (!photo.getAttribute("src")) {
      photo.src = address(`/api/items/${number}/picture`, { side: SIDE, of: store.state.identity });
      photo.addEventListener("error", () => card.classList.add("broken"));
    }
    if (card.dataset.labels === key) return;
    card.dataset.labels = key;
    later(async () => {
      if (!this.seen.has(number) || card.dataset.labels !== key) { if (card.dataset.labels === key) delete card.dataset.labels; return; }
      const picture = await bitmap(...this.over(number)).catch(() => null);
      const canvas = card.querySelector("canvas");
      canvas.width = picture?.width ?? 1;
      canvas.height = picture?.height ?? 1;
      if (picture) canvas.getContext("2d").drawImage(picture, 0, 0);
      if (this.details && picture) this.meter(card, await get(`/api/items/${number}/summary`));
    });
  }

  key_() {
    const { pick, view } = store;
    return view === "similarity" && pick ? `${pick.item},${pick.x},${pick.y}` : `${store.state.revision}`;
  }

  over(number) {
    const { pick, view } = store;
    if (view === "similarity" && pick) return [`/api/items/${number}/similarity`, { side: SIDE, of: pick.item, x: pick.x, y: pick.y }];
    return [`/api/items/${number}/labels`, { side: SIDE }];
  }

  meter(card, { uncertainty }) {
    const meter = card.querySelector(".meter");
    meter.hidden = false;
    meter.firstChild.style.width = `${Math.round(100 * uncertainty)}%`;
    meter.title = `mean uncertainty ${uncertainty.toFixed(2)}`;
    card.dataset.uncertainty = uncertainty;
  }

  reveal(number) {
    const { root } = this, card = this.cards.get(number);
    if (!card) return; // the page itself, which scrolls in a low window, stays where it is
    root.scrollLeft = card.offsetLeft - root.offsetLeft - (root.clientWidth - card.offsetWidth) / 2;
    root.scrollTop = card.offsetTop - root.offsetTop - (root.clientHeight - card.offsetHeight) / 2;
  }

  key(event) {
    const all = [...this.root.children], index = all.indexOf(document.activeElement);
    const across = Math.max(1, Math.floor(this.root.clientWidth / (all[0]?.offsetWidth || 1)));
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -index, End: all.length - 1 - index }[event.key];
    if (index < 0 || step === undefined || !this.details) return;
    all[Math.min(all.length - 1, Math.max(0, index + step))].focus();
    event.preventDefault();
    event.stopPropagation();
  }
}
