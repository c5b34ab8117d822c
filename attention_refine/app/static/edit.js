// The editor of a dataset: a list, a map that is drawn and saved with every stroke, and a repair.

import { MapEditor, show } from "./map_editor.js";
import { ask, bytes, picture, Refused, say } from "./talk.js";
import { tell } from "./scores.js";
import { connect } from "./tools.js";

const AGAIN = 1500; // milliseconds until what could not be sent is sent again
const LOOK = 1000; // and between looks at a repair

const element = (id) => document.getElementById(id);
const model = await ask("/api/model");
const editor = new MapEditor(document.querySelector("canvas.draw"), bytes(model.colours), changed);
const refresh = connect(editor, () => current && bytes(current.own), { n: () => step(1), p: () => step(-1) });

let images = [], current = null, waiting = null, sending = null;

// the list ------------------------------------------------------------------------------------------------------------

async function list() {
  const found = await ask("/api/images");
  images = found.images;
  element("images").replaceChildren(...images.map((image, at) => {
    const item = document.createElement("li"), button = document.createElement("button"), small = document.createElement("small");
    button.type = "button";
    button.addEventListener("click", () => open(at));
    item.append(button);
    image.button = button;
    button.append(document.createElement("span"), small);
    named(image);
    small.textContent = [image.label, image.found].filter(Boolean).join(": ");
    return item;
  }));
  counted(found.edited);
}

function named(image) {
  image.button.firstChild.textContent = `${image.edited ? "✓ " : ""}${image.name}`;
  image.button.setAttribute("aria-label", `${image.name}, ${image.label}${image.edited ? ", has an edited map" : ""}`);
}

function counted(edited) {
  element("count").textContent = `${edited} of ${images.length} have an edited map`;
}

async function open(at) {
  const image = images[at];
  await sent();
  try {
    const [found, shown] = await Promise.all([ask("/api/image", { name: image.name }), picture({ name: image.name })]);
    current = { ...found, at };
    editor.load(shown, found, found.drawn && bytes(found.drawn));
    show(element("own"), shown, found, bytes(found.own), editor.colours);
  } catch (error) {
    say(`${image.name}: ${error.message}`, true);
    return;
  }
  for (const other of images) other.button.removeAttribute("aria-current");
  image.button.setAttribute("aria-current", "true");
  const list = element("images"); // scrolled itself: the page stays where it is
  list.scrollTop = image.button.offsetTop - list.offsetTop - list.clientHeight / 3;
  history.replaceState(null, "", `#${encodeURIComponent(image.name)}`);
  element("name").textContent = `${image.name}: ${current.label}`;
  element("found").textContent = current.found;
  element("own").setAttribute("aria-label", `The model's map over ${image.name}`);
  say("");
  told();
}

function told() {
  tell(model.labels, current.scores, current.edited_scores);
  element("discard").disabled = !current.revision;
  refresh();
}

function step(by) {
  if (images.length) open(((current?.at ?? 0) + by + images.length) % images.length);
}

// saving: what was drawn last waits while the one before is sent ------------------------------------------------------

function changed() {
  waiting = { name: current.name, values: editor.edited ? editor.values.slice() : null };
  refresh();
  sending ??= send().finally(() => { sending = null; });
}

async function sent() {
  while (sending) await sending;
}

async function send() {
  while (waiting) {
    const what = waiting;
    waiting = null;
    say("Saving …");
    try {
      const query = { name: what.name, base: current.revision };
      const found = what.values
        ? await ask("/api/edit", { ...query, height: current.height, width: current.width }, { body: what.values })
        : await ask("/api/edit", query, { method: "DELETE" });
      took(found);
      say(found.revision ? "Saved." : "The edit is taken back.");
    } catch (error) {
      if (error instanceof Refused && error.status === 409) {
        waiting = null;
        const at = current.at;
        setTimeout(() => open(at).then(() => say(error.message, true)));
      } else if (error instanceof Refused) say(`Not saved: ${error.message}`, true);
      else {
        say("Not saved yet: the editor does not answer. What you drew is sent again until it does.", true);
        waiting ??= what;
        await new Promise((done) => setTimeout(done, AGAIN));
      }
    }
  }
}

function took(found) {
  Object.assign(current, { revision: found.revision, edited_scores: found.edited_scores });
  images[current.at].edited = Boolean(found.revision);
  named(images[current.at]);
  counted(found.edited);
  told();
}

addEventListener("beforeunload", (event) => { if (waiting || sending) event.preventDefault(); });

// masks from words ----------------------------------------------------------------------------------------------------

async function find() {
  const name = current.name, text = element("text").value.trim();
  if (!text) return say("Write what to find, such as: a bird", true);
  say("Looking …");
  element("find").disabled = true;
  try {
    const found = await ask("/api/words", { name, text });
    if (current.name === name) editor.set(bytes(found.drawn)); // which saves it; undo takes it back
  } catch (error) {
    say(error.message, true);
  } finally {
    element("find").disabled = false;
  }
}

element("find")?.addEventListener("click", find);
element("text")?.addEventListener("keydown", (event) => { if (event.key === "Enter") find(); });

// repair --------------------------------------------------------------------------------------------------------------

async function repair(method) {
  try {
    await sent();
    watched(await ask("/api/repair", {}, { method }));
  } catch (error) {
    say(error.message, true);
  }
}

function watched(found) {
  const running = found.state === "running";
  element("repair").disabled = running;
  element("stop").hidden = element("bar").hidden = !running;
  if (running) {
    element("stage").textContent = found.total ? `${found.stage}: ${found.done} of ${found.total}` : `${found.stage} …`;
    if (found.total) element("bar").value = found.done / found.total;
    else element("bar").removeAttribute("value");
    setTimeout(() => repair("GET"), LOOK);
  } else if (found.state !== "none") element("stage").textContent = found.sentence;
  element("results").replaceChildren(...found.pages.map((page) => {
    const line = document.createElement("span"), link = document.createElement("a");
    link.href = `/results/${page}`;
    link.target = "_blank";
    link.textContent = `Before and after: ${page.split("/")[0]}`;
    line.append(link, document.createElement("br"));
    return line;
  }));
}

element("next").addEventListener("click", () => step(1));
element("previous").addEventListener("click", () => step(-1));
element("discard").addEventListener("click", () => {
  editor.begin();
  editor.values = new Uint8Array(editor.values.length);
  editor.edited = false;
  editor.end();
});
element("repair").addEventListener("click", () => repair("POST"));
element("stop").addEventListener("click", () => repair("DELETE"));

await list();
const wanted = decodeURIComponent(location.hash.slice(1));
await open(Math.max(0, images.findIndex((image) => image.name === wanted)));
repair("GET");
