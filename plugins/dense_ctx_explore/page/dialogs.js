// Export, import, the list of keys, and short messages.

import { get, send, upload } from "./api.js";
import { store } from "./store.js";

const $ = (id) => document.getElementById(id);
let formats = [];

export function say(text, kind = "note") {
  const toast = document.createElement("p");
  toast.className = kind;
  toast.textContent = text;
  if ([...$("toasts").children].some((other) => other.textContent === text)) return;
  $("toasts").append(toast);
  setTimeout(() => toast.remove(), kind === "error" ? 9000 : 5000);
}

export function open(name) {
  const dialog = $(name);
  if (!dialog.open) dialog.showModal();
}

export function setUp(keys) {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    });
  }
  for (const name of ["export", "import", "help"]) $(`open-${name}`).addEventListener("click", () => open(name));
  $("open-export").addEventListener("click", fillFormats);
  $("open-import").addEventListener("click", fillFormats);
  $("format").addEventListener("change", describe);
  $("export").querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); runExport(event.target); });
  $("import").querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); runImport(event.target); });
  $("keys").replaceChildren(...keys.flatMap(([key, text]) => {
    const term = document.createElement("dt"), meaning = document.createElement("dd");
    term.innerHTML = key.split(" ").map((word) => `<kbd>${word}</kbd>`).join(" ");
    meaning.textContent = text;
    return [term, meaning];
  }));
}

async function fillFormats() {
  if (formats.length) return;
  ({ formats } = await get("/api/formats"));
  const options = (list) => list.map(({ name }) => new Option(name, name));
  $("format").replaceChildren(...options(formats.filter((each) => each.writes)));
  $("import-format").replaceChildren(...options(formats.filter((each) => each.reads)));
  $("format").value = "png";
  $("import-format").value = "auto";
  $("export-model-row").hidden = store.state.models.length < 2;
  $("export-model").replaceChildren(...store.state.models.map((name, place) => new Option(name, place)));
  describe();
}

function describe() {
  $("format-title").textContent = formats.find((each) => each.name === $("format").value)?.title ?? "";
  $("download").hidden = true;
  $("export-result").textContent = "";
}

async function runExport(form) {
  await busy(form, $("export-result"), "Predicting and writing all items ...", async () => {
    await fillFormats();
    const body = { format: $("format").value, model: Number($("export-model").value || 0) };
    const { name, folder, files } = await send("POST", "/api/export", body);
    $("download").href = `/api/exports/${name}`;
    $("download").hidden = false;
    return `${files} file${files === 1 ? "" : "s"} in ${folder}`;
  });
}

async function runImport(form) {
  await busy(form, $("import-result"), "Reading ...", async () => {
    await fillFormats();
    const file = $("import-file").files[0];
    const query = { name: file.name, format: $("import-format").value, unlabelled: $("import-rest").value || undefined };
    const { items, missing } = await upload("/api/import", query, file);
    return `${items.length} item${items.length === 1 ? "" : "s"} labelled` + (missing.length ? `; not here: ${missing.join(", ")}` : "");
  });
}

async function busy(form, result, text, work) {
  const button = form.querySelector("button.primary");
  button.disabled = true;
  result.className = "";
  result.textContent = text;
  try { result.textContent = await work(); } catch (error) {
    result.className = "error";
    result.textContent = error.message;
  }
  button.disabled = false;
}
