// Requests to the server. Its interface: docs/http_api.md.

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message || `status ${status}`);
    this.status = status;
    this.parts = error;
  }
}

async function answered(response) {
  if (response.ok) return response;
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch { /* not of our server: the status says what there is to say */ }
  throw new ApiError(response.status, error);
}

export function address(path, query = {}) {
  const words = Object.entries(query).filter(([, value]) => value !== undefined);
  return words.length ? `${path}?${new URLSearchParams(words)}` : path;
}

export async function get(path, query, signal) {
  return (await answered(await fetch(address(path, query), { signal }))).json();
}

export async function send(method, path, body) {
  const options = { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  return (await answered(await fetch(path, options))).json();
}

export async function upload(path, query, file) {
  const headers = { "content-type": "application/octet-stream" };
  return (await answered(await fetch(address(path, query), { method: "POST", headers, body: file }))).json();
}

export async function bitmap(path, query, signal) {
  const response = await answered(await fetch(address(path, query), { signal }));
  return createImageBitmap(await response.blob());
}

export const newId = () => (crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random().toString(36).slice(2, 12)}`);
