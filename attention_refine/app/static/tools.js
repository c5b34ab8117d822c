// The bar of tools above a map that is drawn, and its keys.

const KEYS = { b: "in", e: "out", r: "box", c: "click" };

// Connect the bar with an editor; copy() gives the bytes of the model's map. More keys: {letter: function}.
export function connect(editor, copy, more = {}) {
  const bar = document.querySelector(".tools");
  const size = bar.querySelector("[data-size]");
  const does = {
    undo: () => editor.undo(),
    redo: () => editor.redo(),
    clear: () => editor.clear(),
    copy: async () => { const values = await copy(); if (values) editor.set(values); },
    hide: () => { editor.hidden = !editor.hidden; editor.draw(); },
  };

  function choose(tool) {
    editor.cancel();
    editor.tool = tool;
    for (const button of bar.querySelectorAll("[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    }
  }

  function act(name) {
    if (!editor.ready) return;
    const done = does[name]();
    refresh();
    return done;
  }

  function refresh() {
    bar.querySelector('[data-do="undo"]').disabled = !editor.ready || !editor.done.length;
    bar.querySelector('[data-do="redo"]').disabled = !editor.ready || !editor.undone.length;
    bar.querySelector('[data-do="hide"]').setAttribute("aria-pressed", String(editor.hidden));
  }

  function resize(percent) {
    size.value = percent;
    editor.size = Number(size.value) / 100;
    editor.draw();
  }

  for (const button of bar.querySelectorAll("[data-tool]")) button.addEventListener("click", () => choose(button.dataset.tool));
  for (const button of bar.querySelectorAll("[data-do]")) button.addEventListener("click", () => act(button.dataset.do));
  size.addEventListener("input", () => resize(size.value));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input:not([type=range]):not([type=checkbox]), select, textarea");
    if (typing || event.altKey || event.metaKey) return;
    const key = event.key.toLowerCase();
    if (event.ctrlKey) {
      if (key === "z") act(event.shiftKey ? "redo" : "undo");
      else if (key === "y") act("redo");
      else return;
    } else if (KEYS[key]) choose(KEYS[key]);
    else if (key === "z") act("undo");
    else if (key === "y") act("redo");
    else if (key === "m") act("copy");
    else if (key === "0") act("clear");
    else if (key === "h") act("hide");
    else if (key === "[") resize(Number(size.value) - 2);
    else if (key === "]") resize(Number(size.value) + 2);
    else if (more[key]) more[key]();
    else return;
    event.preventDefault();
  });
  resize(size.value);
  return refresh;
}
