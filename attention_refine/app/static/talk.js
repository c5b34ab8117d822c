// Asking the server, and saying what came of it.

export class Refused extends Error {
  constructor(status, said) {
    super(said);
    this.status = status;
  }
}

// JSON from a path with a query; body makes it a POST unless a method is given. Throws Refused with the server's sentence.
export async function ask(path, query = {}, { body, method } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const words = new URLSearchParams(given).toString();
  const answer = await fetch(words ? `${path}?${words}` : path, { method: method ?? (body === undefined ? "GET" : "POST"), body });
  const text = await answer.text();
  let found;
  try { found = JSON.parse(text); } catch { found = { error: text || answer.statusText }; }
  if (!answer.ok) throw new Refused(answer.status, found.error ?? answer.statusText);
  return found;
}

export function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

export function say(text, wrong = false) {
  const status = document.getElementById("status");
  status.textContent = text;
  status.classList.toggle("wrong", wrong);
}

export function picture(query) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error("the picture could not be shown"));
    image.src = `/api/picture?${new URLSearchParams(query)}`;
  });
}

export function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
