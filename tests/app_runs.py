"""A small model, a folder and the pages over them, for tests/app and for the processes that it starts and kills."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import timm
import torch
import uvicorn
from PIL import Image

import attention_refine as ar
from attention_refine.app import running
from attention_refine.app.collection import Collection
from attention_refine.app.repairs import Repairs
from attention_refine.app.server import Server
from attention_refine.app.viewer import Viewer
from attention_refine.app.words import Words

CLASSES = ("cat", "dog", "owl")
SIDE = 64
TINY = {
    "data": {"propagate": {"method": "segmenter", "segmenter": {"steps": 2}}, "validation": 0.34},
    "model": {"image_size": SIDE},
    "training": {"max_steps": 2, "batch_size": 4, "mixed_precision": "no"},
}


def make_model(head: str | None = "abn", labels=CLASSES) -> ar.RefinedModel:
    """Fresh, its predictions pulled apart so that a map shows in them."""
    torch.manual_seed(0)
    model = ar.wrap(timm.create_model("test_resnet", num_classes=len(labels)), head=head, labels=list(labels))
    model.preprocessing.update(input_size=[3, SIDE, SIDE], crop_pct=0.8)
    with torch.no_grad():
        model.backbone.net.get_classifier().weight.mul_(200)
    return model.eval()


def make_photograph(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def make_folder(root: Path, of_class: int = 3, splits=("train", "test")) -> Path:
    """Class folders; names that need quoting."""
    for split in splits:
        for number in range(of_class * len(CLASSES)):
            here = root / split / CLASSES[number % len(CLASSES)]
            here.mkdir(parents=True, exist_ok=True)
            make_photograph(number + 100 * (split == "test")).save(here / f"photo & {number} ü.png")
    return root


def make_server(model: Path, folder: Path | None, output: Path, *, hosts=("*",), audited: bool = False, words=None):
    viewer = Viewer(ar.load(model))
    if folder is None:
        return Server(viewer, "tiny").app(hosts)
    collection = Collection(folder)
    if audited:
        collection.worst_first(running._audited(viewer, collection, output / "audit", str(model), None))
    repairs = Repairs(model, folder, "train", output, recipe="repair_folder", limit=4, overrides=TINY)
    found = None if words is None else Words(words)
    return Server(viewer, "tiny", collection, repairs, found).app(hosts, "edit")


@contextmanager
def served(app, port: int = 0):
    """The application at an address of this machine, in a thread."""
    listener = running.listening("127.0.0.1", port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def edit_in_process(model: str, folder: str, output: str, port: int) -> None:
    """What ``attention-refine edit`` runs."""
    running.edit(model, folder, output, limit=None, port=port)
