// A map drawn on a photograph: a byte a cell over the whole of it, by pointer or by keys, with undo and redo.

const HISTORY = 100;
const SOFT = 0.7; // of the brush's radius is full, the rest falls off
const SPREAD = 0.08; // of a click, as a share of the shorter side: that of ar.data.map_from_clicks
const SMALLEST = 512; // pixels across at least, so that a small photograph can be drawn on

export class MapEditor {
  // changed(editor) is called after whatever changes the map.
  constructor(canvas, colours, changed) {
    this.canvas = canvas;
    this.colours = colours;
    this.changed = changed;
    this.tool = "in";
    this.size = 0.1;
    this.hidden = false;
    this.cells = document.createElement("canvas");
    this.picture = null;
    this.cursor = null;
    this.last = null;
    this.corner = null;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("pointerleave", () => { if (!this.before) { this.cursor = null; this.draw(); } });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  // Begin on a photograph: {height, width, box} of its map, and the map as bytes, or null where there is no edit.
  load(picture, about, drawn) {
    Object.assign(this, { picture, height: about.height, width: about.width, box: about.box });
    const scale = Math.max(1, SMALLEST / Math.max(picture.naturalWidth, picture.naturalHeight));
    this.canvas.width = Math.round(picture.naturalWidth * scale);
    this.canvas.height = Math.round(picture.naturalHeight * scale);
    this.cells.width = about.width;
    this.cells.height = about.height;
    this.values = drawn ? drawn.slice() : new Uint8Array(about.width * about.height);
    this.edited = drawn !== null;
    this.undone = [];
    this.done = [];
    this.before = this.last = this.corner = this.cursor = null;
    this.draw();
  }

  get ready() { return this.picture !== null; }

  // actions ---------------------------------------------------------------------------------------------------------

  begin() { this.before = { values: this.values.slice(), edited: this.edited }; }

  end() {
    const before = this.before;
    this.before = this.last = this.corner = null;
    if (!before) return;
    const same = before.edited === this.edited && before.values.every((value, at) => value === this.values[at]);
    if (!same) {
      this.done.push(before);
      if (this.done.length > HISTORY) this.done.shift();
      this.undone = [];
      this.changed(this);
    }
    this.draw();
  }

  cancel() {
    if (this.before) Object.assign(this, this.before);
    this.before = this.last = this.corner = null;
    this.draw();
  }

  set(values) {
    this.begin();
    this.values = values.slice();
    this.edited = true;
    this.end();
  }

  clear() { this.set(new Uint8Array(this.width * this.height)); }

  undo() { this.swap(this.done, this.undone); }

  redo() { this.swap(this.undone, this.done); }

  swap(from, to) {
    if (!from.length) return;
    to.push({ values: this.values, edited: this.edited });
    Object.assign(this, from.pop());
    this.changed(this);
    this.draw();
  }

  // the marks that tools leave, in cells ------------------------------------------------------------------------------

  get radius() { return Math.max(0.75, (this.size * Math.max(this.width, this.height)) / 2); }

  each(left, top, right, bottom, mark) {
    const x0 = Math.max(0, Math.floor(left)), x1 = Math.min(this.width, Math.ceil(right));
    const y0 = Math.max(0, Math.floor(top)), y1 = Math.min(this.height, Math.ceil(bottom));
    for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) {
      const at = y * this.width + x;
      this.values[at] = mark(x + 0.5, y + 0.5, this.values[at]);
    }
    this.edited = true;
  }

  dab(x, y) {
    const r = this.radius, into = this.tool === "in";
    this.each(x - r, y - r, x + r, y + r, (cx, cy, value) => {
      const far = Math.hypot(cx - x, cy - y) / r;
      const full = far <= SOFT ? 1 : Math.max(0, (1 - far) / (1 - SOFT));
      return into ? Math.max(value, 255 * full) : Math.min(value, 255 * (1 - full));
    });
  }

  line(from, to) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / (this.radius / 3)));
    for (let step = 1; step <= steps; step++) {
      this.dab(from.x + ((to.x - from.x) * step) / steps, from.y + ((to.y - from.y) * step) / steps);
    }
  }

  bump(x, y) {
    const spread = SPREAD * Math.min(this.width, this.height);
    this.each(x - 4 * spread, y - 4 * spread, x + 4 * spread, y + 4 * spread, (cx, cy, value) =>
      Math.max(value, 255 * Math.exp(-((cx - x) ** 2 + (cy - y) ** 2) / (2 * spread * spread))));
  }

  fill(a, b) {
    const left = Math.round(Math.min(a.x, b.x)), right = Math.round(Math.max(a.x, b.x));
    const top = Math.round(Math.min(a.y, b.y)), bottom = Math.round(Math.max(a.y, b.y));
    if (right > left && bottom > top) this.each(left, top, right, bottom, () => 255);
  }

  // pointer -------------------------------------------------------------------------------------------------------------

  where(event) {
    const at = this.canvas.getBoundingClientRect();
    return { x: ((event.clientX - at.left) / at.width) * this.width, y: ((event.clientY - at.top) / at.height) * this.height };
  }

  down(event) {
    if (!this.ready || event.button !== 0) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const at = (this.cursor = this.where(event));
    this.begin();
    if (this.tool === "box") this.corner = at;
    else if (this.tool === "click") this.bump(at.x, at.y);
    else { this.dab(at.x, at.y); this.last = at; }
    this.draw();
  }

  move(event) {
    if (!this.ready) return;
    const at = (this.cursor = this.where(event));
    if (this.before && this.last) { this.line(this.last, at); this.last = at; }
    this.draw();
  }

  up(event) {
    if (!this.before) return;
    if (this.corner) this.fill(this.corner, this.where(event));
    this.end();
  }

  // keys, while the picture has the focus -------------------------------------------------------------------------------

  key(event) {
    if (!this.ready || event.ctrlKey || event.metaKey || event.altKey) return;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      const step = Math.max(this.width, this.height) * (event.shiftKey ? 0.01 : 0.04);
      const from = this.cursor ?? { x: this.width / 2, y: this.height / 2 };
      this.cursor = {
        x: Math.min(this.width, Math.max(0, from.x + way[0] * step)),
        y: Math.min(this.height, Math.max(0, from.y + way[1] * step)),
      };
      this.draw();
    } else if (event.key === " " || event.key === "Enter") {
      const at = (this.cursor ??= { x: this.width / 2, y: this.height / 2 });
      if (this.tool === "box" && !this.corner) { this.begin(); this.corner = { ...at }; this.draw(); }
      else {
        if (!this.before) this.begin();
        if (this.tool === "box") this.fill(this.corner, at);
        else if (this.tool === "click") this.bump(at.x, at.y);
        else this.dab(at.x, at.y);
        this.end();
      }
    } else if (event.key === "Escape" && this.corner) this.cancel();
    else return;
    event.preventDefault();
  }

  // what is seen ----------------------------------------------------------------------------------------------------------

  draw(marks = true) {
    if (!this.ready) return;
    const { canvas } = this, context = canvas.getContext("2d");
    context.drawImage(this.picture, 0, 0, canvas.width, canvas.height);
    if (!this.hidden) paint(context, this.cells, this.values, this.colours);
    shade(context, this.box);
    if (!marks || !this.cursor) return;
    const x = (this.cursor.x / this.width) * canvas.width, y = (this.cursor.y / this.height) * canvas.height;
    const radius = this.tool === "in" || this.tool === "out" ? (this.radius / this.width) * canvas.width : 6;
    for (const [colour, width] of [["#000", 3], ["#fff", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      if (this.corner) {
        const from = { x: (this.corner.x / this.width) * canvas.width, y: (this.corner.y / this.height) * canvas.height };
        context.rect(from.x, from.y, x - from.x, y - from.y);
      } else context.arc(x, y, radius, 0, 7);
      context.stroke();
    }
  }

  // The picture without the cursor, as a PNG file.
  saved() {
    this.draw(false);
    return new Promise((done) => this.canvas.toBlob((blob) => { this.draw(); done(blob); }, "image/png"));
  }
}

// A map over whatever a canvas shows: the higher its value, the less is left of the photograph.
export function paint(context, cells, values, colours) {
  const inner = cells.getContext("2d"), image = inner.createImageData(cells.width, cells.height);
  for (let at = 0; at < values.length; at++) {
    const value = values[at];
    image.data.set([colours[3 * value], colours[3 * value + 1], colours[3 * value + 2], 0.7 * value], 4 * at);
  }
  inner.putImageData(image, 0, 0);
  context.drawImage(cells, 0, 0, context.canvas.width, context.canvas.height);
}

// Darken what lies outside of the part that the model sees.
export function shade(context, [left, top, right, bottom]) {
  const { width, height } = context.canvas;
  const x = left * width, y = top * height, w = (right - left) * width, h = (bottom - top) * height;
  context.fillStyle = "rgba(0, 0, 0, 0.55)";
  context.beginPath();
  context.rect(0, 0, width, height);
  context.rect(x, y, w, h);
  context.fill("evenodd");
}

// A photograph with a map over it, on a canvas of its own.
export function show(canvas, picture, about, values, colours) {
  const scale = Math.max(1, SMALLEST / Math.max(picture.naturalWidth, picture.naturalHeight));
  canvas.width = Math.round(picture.naturalWidth * scale);
  canvas.height = Math.round(picture.naturalHeight * scale);
  const context = canvas.getContext("2d"), cells = document.createElement("canvas");
  cells.width = about.width;
  cells.height = about.height;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  paint(context, cells, values, colours);
  shade(context, about.box);
}
