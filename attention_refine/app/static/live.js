// Images that are dropped: what the model makes of them, several maps side by side, and of a map that is drawn.

import { MapEditor, show } from "./map_editor.js";
import { ask, bytes, picture, save, say } from "./talk.js";
import { tell } from "./scores.js";
import { connect } from "./tools.js";

const element = (id) => document.getElementById(id);
const model = await ask("/api/model");
const colours = bytes(model.colours);
const editor = new MapEditor(document.querySelector("canvas.draw"), colours, changed);
const refresh = connect(editor, copy);
const dropped = [];
let current = null, round = 0, asked = 0;

// the choices -----------------------------------------------------------------------------------------------------------

for (const [at, label] of [["", "the predicted one"], ...model.labels.entries()]) {
  const option = document.createElement("option");
  option.value = at;
  option.textContent = label;
  element("target").append(option);
}
const shown = new Set([model.own, "grad_cam"]);
for (const method of model.methods) {
  const label = document.createElement("label"), box = document.createElement("input");
  box.type = "checkbox";
  box.value = method;
  box.checked = shown.has(method);
  label.append(box, ` ${title(method)}`);
  element("methods").append(label);
}
element("target").addEventListener("change", maps);
element("methods").addEventListener("change", maps);

function title(method) {
  return method === "model" ? "the model's own" : method.replaceAll("_", " ");
}

// dropping --------------------------------------------------------------------------------------------------------------

async function take(files) {
  const most = Number(document.body.dataset.mostBytes);
  for (const file of files) {
    if (file.size > most) {
      say(`${file.name} is larger than the ${most >> 20} MB that are taken.`, true);
      continue;
    }
    say(`${file.name} …`);
    try {
      const found = await ask("/api/upload", { name: file.name }, { body: await file.arrayBuffer() });
      const image = { ...found, name: file.name, picture: await picture({ upload: found.upload }), edited_scores: null, drawn: null };
      dropped.push(image);
      list();
      open(image);
      say("");
    } catch (error) {
      say(error.message, true);
    }
  }
}

function list() {
  element("images").replaceChildren(...dropped.map((image) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = image.name;
    button.addEventListener("click", () => open(image));
    image.button = button;
    item.append(button);
    return item;
  }));
}

const chosen = element("files");

function choose() {
  take([...chosen.files]);
  chosen.value = "";
}

chosen.addEventListener("change", choose);
if (chosen.files.length) choose(); // before this page had asked what the model is
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
}

// one image -------------------------------------------------------------------------------------------------------------

function open(image) {
  if (current) current.drawn = editor.edited ? editor.values : null;
  current = image;
  for (const other of dropped) other.button.removeAttribute("aria-current");
  image.button.setAttribute("aria-current", "true");
  element("name").textContent = image.name;
  const [left, top, right, bottom] = image.box;
  element("seen").textContent = `${image.size[0]} x ${image.size[1]} pixels; the model sees ${Math.round(100 * (right - left) * (bottom - top))} % of them.`;
  element("maps-of").hidden = false;
  editor.load(image.picture, image, image.drawn);
  told();
  maps();
}

function told() {
  tell(model.labels, current.scores, current.edited_scores);
  refresh();
}

async function maps() {
  if (!current) return;
  const mine = ++round, image = current, target = element("target").value;
  const chosen = [...element("methods").querySelectorAll(":checked")].map((box) => box.value);
  const tiles = chosen.map((method) => ({ method, ...tile(method) }));
  element("tiles").replaceChildren(...tiles.map((each) => each.figure));
  for (const { method, canvas, caption, buttons } of tiles) {
    try {
      const found = await ask("/api/map", { upload: image.upload, method, target: target || undefined });
      if (mine !== round) return;
      show(canvas, image.picture, image, bytes(found.drawn), colours);
      const fewer = Object.entries(found.made_with ?? {}).map(([name, count]) => ` (${count} ${name.replaceAll("_", " ")})`);
      caption.textContent = `${title(method)}${fewer.join("")}: ${found.low.toPrecision(3)} to ${found.high.toPrecision(3)}`;
      const explained = target ? model.labels[target] : "the predicted one";
      buttons[0].addEventListener("click", () => canvas.toBlob((blob) => save(`${stem(image)}-${method}.png`, blob)));
      buttons[1].addEventListener("click", () => numbers(image, method, {
        explained, made_with: found.made_with, scores: named(image.scores), shape: found.shape, map: rows(new Float32Array(bytes(found.values).buffer), found.shape[1]),
      }));
      for (const button of buttons) button.hidden = false;
    } catch (error) {
      if (mine !== round) return;
      caption.textContent = `${title(method)}: ${error.message}`;
      canvas.remove();
    }
  }
}

function tile(method) {
  const figure = document.createElement("figure"), canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Map: ${title(method)}`);
  caption.textContent = `${title(method)} …`;
  const buttons = ["Picture", "Numbers"].map((word) => {
    const button = document.createElement("button");
    button.type = "button";
    button.hidden = true;
    button.textContent = word;
    button.setAttribute("aria-label", `Download ${word.toLowerCase()} of ${title(method)}`);
    return button;
  });
  const row = document.createElement("div");
  row.className = "row";
  row.append(...buttons);
  figure.append(canvas, caption, row);
  return { figure, canvas, caption, buttons };
}

// a map of one's own ------------------------------------------------------------------------------------------------------

async function copy() {
  try {
    return bytes((await ask("/api/map", { upload: current.upload, method: model.own })).drawn);
  } catch (error) {
    say(error.message, true);
    return null;
  }
}

async function changed() {
  refresh();
  const image = current, mine = ++asked;
  if (!editor.edited || !model.acts) { image.edited_scores = null; told(); return; }
  try {
    const query = { upload: image.upload, height: image.height, width: image.width };
    const found = await ask("/api/predict", query, { body: editor.values.slice() });
    if (mine !== asked) return;
    image.edited_scores = found.scores;
    say("");
    if (image === current) told();
  } catch (error) {
    say(error.message, true);
  }
}

element("save-picture").addEventListener("click", async () => save(`${stem(current)}-drawn.png`, await editor.saved()));
element("save-numbers").addEventListener("click", () => numbers(current, "drawn", {
  scores: named(current.scores), scores_with_this_map: current.edited_scores && named(current.edited_scores),
  shape: [editor.height, editor.width], map: rows(Array.from(editor.values, (value) => value / 255), editor.width),
}));

// downloads ---------------------------------------------------------------------------------------------------------------

function numbers(image, method, found) {
  const content = { model: model.title, photograph: image.name, size: image.size, seen: image.box, method, ...found };
  save(`${stem(image)}-${method}.json`, new Blob([JSON.stringify(content)], { type: "application/json" }));
}

function stem(image) {
  return image.name.replace(/\.[^.]*$/, "");
}

function named(scores) {
  return Object.fromEntries(model.labels.map((label, at) => [label, scores[at]]));
}

function rows(values, width) {
  const found = [];
  for (let at = 0; at < values.length; at += width) found.push(Array.from(values.slice(at, at + width), (value) => Number(value.toPrecision(6))));
  return found;
}
