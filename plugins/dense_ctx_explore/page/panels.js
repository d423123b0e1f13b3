// The bar and the side: tools, classes, what lies over the image, accept and reject.

import { classOf, currentItem, brushRadius, onChange, store, update } from "./store.js";

const $ = (id) => document.getElementById(id);
const HUES = ["#e5484d", "#3e8bff", "#f5b51e", "#30a46c", "#ab6ee0", "#12b5c9", "#f76b15", "#e93d82"];

// Arrow keys move inside a group of radios, and choose.
export function radios(group, choose) {
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || event.target.tagName === "INPUT") return;
    const all = [...group.querySelectorAll("[role=radio]")];
    const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.focus();
    choose(next);
    event.preventDefault();
    event.stopPropagation();
  });
  group.addEventListener("click", (event) => {
    const radio = event.target.closest("[role=radio]");
    if (radio) choose(radio);
  });
}

function check(group, chosen) {
  for (const radio of group.querySelectorAll("[role=radio]")) {
    const on = chosen(radio);
    radio.setAttribute("aria-checked", String(on));
    radio.tabIndex = on ? 0 : -1;
  }
}

export function setUp(queue) {
  radios($("tools"), (radio) => update({ tool: radio.dataset.tool }));
  radios($("views"), (radio) => showView(radio.dataset.view));
  radios($("classes"), (radio) => update({ classId: Number(radio.dataset.id), tool: store.tool === "eraser" ? "brush" : store.tool }));
  onChange(["tool"], () => check($("tools"), (radio) => radio.dataset.tool === store.tool));
  onChange(["view"], () => check($("views"), (radio) => radio.dataset.view === store.view));
  onChange(["state", "classId"], drawClasses);
  onChange(["state", "item"], drawItem);
  onChange(["radius", "item", "state"], () => { $("radius").value = store.radius; $("radius-value").value = `${Math.round(2 * brushRadius())} px`; });
  $("radius").addEventListener("input", (event) => update({ radius: Number(event.target.value) }));
  $("opacity").addEventListener("input", (event) => update({ opacity: Number(event.target.value) }));
  onChange(["opacity"], () => { $("opacity").value = store.opacity; });
  $("show-strokes").addEventListener("change", (event) => update({ strokes: event.target.checked }));
  onChange(["strokes"], () => { $("show-strokes").checked = store.strokes; });
  $("undo").addEventListener("click", () => queue.push({ edit: "undo" }));
  $("redo").addEventListener("click", () => queue.push({ edit: "redo" }));
  $("clear").addEventListener("click", () => queue.push({ edit: "clear", item: store.item }));
  $("accept").addEventListener("click", () => mark(queue, "accepted"));
  $("reject").addEventListener("click", () => mark(queue, "rejected"));
  $("new-class").addEventListener("submit", (event) => { event.preventDefault(); addClass(queue); });
  $("classes").addEventListener("click", (event) => classButton(queue, event));
  $("classes").addEventListener("dblclick", (event) => rename(queue, event.target.closest("li")));
  check($("tools"), (radio) => radio.dataset.tool === store.tool);
  check($("views"), (radio) => radio.dataset.view === store.view);
}

export function showView(view) {
  update({ view, ...(view === "similarity" ? { tool: "similarity" } : {}) });
}

// Again on the same button: back to no decision.
export function mark(queue, status) {
  queue.push({ edit: "mark", item: store.item, status: currentItem().status === status ? null : status });
}

async function addClass(queue) {
  const name = $("class-name").value.trim();
  if (!name) return $("class-name").focus();
  const { answer } = queue.push({ edit: "add-class", name, colour: $("class-colour").value });
  const made = await answer;
  if (!made) return;
  $("class-name").value = "";
  document.dispatchEvent(new CustomEvent("class-added", { detail: made.result }));
}

function drawClasses() {
  if (!store.state) return;
  const { classes } = store.state;
  if (classOf(store.classId) === undefined) {
    const first = classes.find((each) => each.name.toLowerCase() !== "background") ?? classes[0];
    store.classId = first ? first.id : null;
  }
  const focused = document.activeElement?.closest("#classes [role=radio]")?.dataset.id;
  $("classes").replaceChildren(...classes.map((each, index) => {
    const row = document.createElement("li");
    row.dataset.id = each.id;
    row.setAttribute("role", "none");
    row.innerHTML = `<button role="radio"><i></i><span></span><kbd></kbd></button>
      <button class="icon edit" data-act="rename"><svg><use href="#i-pen"/></svg></button>
      <button class="icon edit" data-act="remove"><svg><use href="#i-cross"/></svg></button>`;
    const [radio, edit, remove] = row.children;
    radio.dataset.id = each.id;
    radio.querySelector("i").style.background = each.colour;
    radio.querySelector("span").textContent = each.name;
    radio.title = `${each.name}: double click to change`;
    radio.querySelector("kbd").textContent = index < 9 ? index + 1 : "";
    edit.ariaLabel = `Change ${each.name}`;
    remove.ariaLabel = `Remove ${each.name} and its strokes`;
    return row;
  }));
  check($("classes"), (radio) => Number(radio.dataset.id) === store.classId);
  if (focused !== undefined) $("classes").querySelector(`[role=radio][data-id="${focused}"]`)?.focus();
  const used = new Set(classes.map((each) => each.colour));
  if (!document.activeElement?.closest("#new-class")) $("class-colour").value = HUES.find((hue) => !used.has(hue)) ?? HUES[0];
}

function classButton(queue, event) {
  const act = event.target.closest("[data-act]")?.dataset.act, row = event.target.closest("li");
  if (act === "rename") rename(queue, row);
  if (act !== "remove") return;
  const each = classOf(Number(row.dataset.id));
  if (confirm(`Remove the class "${each.name}" and its strokes on all items?`)) queue.push({ edit: "remove-class", class: each.id });
}

function rename(queue, row) {
  if (!row || row.querySelector("input")) return;
  const each = classOf(Number(row.dataset.id));
  const colour = document.createElement("input"), field = document.createElement("input");
  Object.assign(colour, { type: "color", value: each.colour, ariaLabel: `Colour of ${each.name}` });
  Object.assign(field, { value: each.name, maxLength: 80, ariaLabel: `Name of ${each.name}` });
  row.replaceChildren(colour, field);
  field.focus();
  field.select();
  let ended = false;
  const end = (save) => {
    if (ended) return;
    ended = true;
    const name = field.value.trim() || each.name;
    if (save && (name !== each.name || colour.value !== each.colour)) {
      queue.push({ edit: "change-class", class: each.id, name, colour: colour.value });
    }
    drawClasses();
  };
  row.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") end(false);
  });
  row.addEventListener("focusout", (event) => { if (!row.contains(event.relatedTarget)) end(true); });
}

function drawItem() {
  if (!store.state) return;
  const item = currentItem(), { items } = store.state;
  $("item-name").innerHTML = "<b></b><small></small>";
  $("item-name").title = item.name;
  $("item-name").firstChild.textContent = item.name.split("/").at(-1);
  $("item-name").lastChild.textContent = `${store.item + 1} / ${items.length} · ${item.width} × ${item.height}`;
  $("accept").setAttribute("aria-pressed", String(item.status === "accepted"));
  $("reject").setAttribute("aria-pressed", String(item.status === "rejected"));
  $("previous").disabled = store.item === 0;
  $("following").disabled = store.item === items.length - 1;
  $("clear").disabled = !item.strokes;
}
