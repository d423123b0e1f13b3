// What the page knows: the server's state, and what this tab looks at. Listeners are called with the names that changed.

const listeners = [];

export const store = {
  state: null, // of GET /api/state
  item: 0,
  view: "labels",
  tool: "brush",
  classId: null,
  radius: 30, // a share of the screen: see `brushRadius`
  opacity: 55,
  strokes: true,
  pick: null, // {item, x, y} of the similarity map
};

export function update(changes) {
  const names = Object.keys(changes).filter((name) => store[name] !== changes[name]);
  Object.assign(store, changes);
  if (names.length) for (const listener of listeners) listener(names);
}

export function onChange(names, listener) {
  listeners.push((changed) => { if (names.some((name) => changed.includes(name))) listener(changed); });
}

export const currentItem = () => store.state.items[store.item];
export const classOf = (id) => store.state.classes.find((entry) => entry.id === id);

// The brush in pixels of the image: 1 to 100 of the slider are 0.2 % to 12 % of the longer side, finer at the low end.
export function brushRadius(item = currentItem()) {
  const longer = Math.max(item.width, item.height);
  return Math.max(0.5, Math.round(longer * 0.12 * (store.radius / 100) ** 1.6 * 10) / 10);
}
