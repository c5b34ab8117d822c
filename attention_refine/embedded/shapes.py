"""The embedded dataset: textured shapes on textured backgrounds, exact masks, and a cue that lies at test.

Nothing is downloaded; every image is drawn from a seed. A class is a shape with a texture (:data:`CLASSES`) at a random
place, scale and rotation, in random colours: colour says nothing about the class. Somewhere in the background sits a
small badge, and its colour goes with the class in ``train`` and ``validation`` (probability :data:`CUE`). At ``test``
the badge is drawn independently of the class, so a network that looks at the badge loses accuracy there;
``test_intact`` keeps the badge as in training, and the difference between the two tests says how much a network leans
on it.

Measured with the lines below, one CPU thread (65 s a run on an idle core); chance is 0.167::

    trained with    test_intact     test            seeds
    cue=0.95        0.960, 0.963    0.282, 0.295    0, 1
    cue=0           0.902           0.897           0

    import timm, torch
    from attention_refine import shapes

    def load(split, cue=0.95):
        rows = list(shapes.rows(split, size=64, cue=cue))
        images = torch.stack([torch.from_numpy(row["image"]) for row in rows]).permute(0, 3, 1, 2)
        return (images / 255 - 0.5) / 0.25, torch.tensor([row["label"] for row in rows])

    torch.manual_seed(seed)
    images, labels = load("train", cue)
    net = timm.create_model("resnet10t", num_classes=6)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=8 * 56, pct_start=0.2)
    for batch in (b for _ in range(8) for b in torch.randperm(1800).split(32)[:56]):
        flip = (torch.rand(32) < 0.5)[:, None, None, None]
        flipped = torch.where(flip, images[batch].flip(3), images[batch])
        loss = torch.nn.functional.cross_entropy(net(flipped), labels[batch])
        optimiser.zero_grad(), loss.backward(), optimiser.step(), schedule.step()
    for images, labels in (load("test_intact"), load("test")):
        print((net.eval()(images).argmax(1) == labels).float().mean())

So a plain network takes the badge for the class, and it need not: without the cue it learns the objects themselves.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ._writing import write_splits

if TYPE_CHECKING:
    import datasets

CLASSES = ("striped disc", "checked square", "dotted triangle", "ringed cross", "rayed star", "woven ring")
CUE = 0.95
SIZES = {"train": 1800, "validation": 300, "test": 600, "test_intact": 600}

_SPLITS = tuple(SIZES)
_OVERSAMPLE = 3  # inside tests a pixel side: smooth edges, and a mask that is right to a third of a pixel
REACH = 1.2  # no shape reaches further from its centre, in its own coordinates


def inside(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Membership of the object's own coordinates, each in about [-1, 1], in one of the six shapes."""
    if shape == 0:
        return np.hypot(u, v) < 0.85
    if shape == 1:
        return np.maximum(abs(u), abs(v)) < 0.75
    if shape == 2:
        return (v < 0.6) & (v + 1.732 * u > -1.0) & (v - 1.732 * u > -1.0)
    if shape == 3:
        return (np.minimum(abs(u), abs(v)) < 0.32) & (np.maximum(abs(u), abs(v)) < 0.95)
    if shape == 4:
        turns = np.arctan2(v, u) * 5 / (2 * math.pi)
        return np.hypot(u, v) < 0.45 + 0.55 * abs(np.mod(turns, 1.0) * 2 - 1) ** 1.5
    radius = np.hypot(u, v)
    return (radius > 0.42) & (radius < 0.95)


def texture(kind: int, at: tuple[np.ndarray, np.ndarray], k: float) -> np.ndarray:
    """A pattern in [0, 1] over the object's own coordinates; ``k`` is its spatial frequency in radians a unit."""
    u, v = at
    if kind == 0:
        wave = np.sin(k * u)
    elif kind == 1:
        wave = np.sin(k * u) * np.sin(k * v) * 2
    elif kind == 2:
        wave = np.cos(k * u) + np.cos(k * v) - 0.6
    elif kind == 3:
        wave = np.sin(k * np.maximum(abs(u), abs(v)))
    elif kind == 4:
        wave = np.sin(12 * np.arctan2(v, u))
    else:
        wave = np.maximum(np.sin(k * (u + v)), np.sin(k * (u - v))) * 2 - 1
    return 1 / (1 + np.exp(-4 * wave))


def noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth noise of three octaves, zero mean, about unit scale."""
    field = np.zeros((size, size))
    for cells, gain in ((3, 1.0), (7, 0.7), (17, 0.5)):
        grid = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        field += gain * np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))
    return field


def colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """Hue, saturation, value in [0, 1] to RGB in [0, 1]."""
    wheel = np.clip(abs(np.mod(hue * 6 + np.array([0.0, 4.0, 2.0]), 6) - 3) - 1, 0, 1)
    return value * (1 - saturation * (1 - wheel))


def badge_colour(label: int) -> np.ndarray:
    """RGB in [0, 1] of the badge that goes with a class."""
    return colour(label / len(CLASSES), 0.9, 0.95)


def draw(rng: np.random.Generator, label: int, cue: int, size: int) -> dict:
    """One image.

    Args:
        label: class of the object, an index into :data:`CLASSES`.
        cue: class whose badge is shown in the background.
        size: side in pixels.

    Returns:
        ``image`` (size, size, 3) uint8, ``mask`` (size, size) uint8 with 255 on the object, ``bbox`` and ``cue_bbox``
        as [x, y, width, height] in pixels.
    """
    x = np.arange(size) + 0.5
    y = x[:, None]
    # Background: two random colours mixed by noise and a grating, of frequencies that the objects' textures have too.
    ground = [colour(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.85)) for _ in range(2)]
    angle, k = rng.uniform(0, math.pi), rng.uniform(0.06, 0.2) * 96 / size * math.pi
    mixed = noise(rng, size) + 1.2 * np.sin(k * (x * math.cos(angle) + y * math.sin(angle)) + rng.uniform(0, 6))
    mixed = (1 / (1 + np.exp(-1.5 * mixed)))[..., None]
    image = ground[0] * (1 - mixed) + ground[1] * mixed

    radius = rng.uniform(0.16, 0.30) * size
    centre_x, centre_y = rng.uniform(radius, size - radius, 2)
    turn = rng.uniform(0, 2 * math.pi)

    def own(x: Any, y: Any) -> tuple[Any, Any]:
        dx, dy = (x - centre_x) / radius, (y - centre_y) / radius
        return dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)

    # The object and its texture are drawn only where they can be.
    down, across = (slice(max(0, int(c - REACH * radius)), int(c + REACH * radius) + 1) for c in (centre_y, centre_x))
    fine = ((np.arange(size * _OVERSAMPLE) + 0.5) / _OVERSAMPLE).reshape(size, _OVERSAMPLE)
    fine_x, fine_y = fine[across], fine[down]
    within = inside(label, *own(fine_x.reshape(1, -1), fine_y.reshape(-1, 1)))
    cover = within.reshape(len(fine_y), _OVERSAMPLE, len(fine_x), _OVERSAMPLE).mean((1, 3))
    hue = rng.random()
    dark = colour(hue, rng.uniform(0.1, 0.6), rng.uniform(0.15, 0.45))
    light = colour(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.6, 0.95))
    pattern = texture(label, own(x[across], y[down]), rng.uniform(8, 12))[..., None]
    if rng.random() < 0.5:  # or a texture that is mostly dark would give its class a brightness
        pattern = 1 - pattern
    drawn = image[down, across]
    drawn += cover[..., None] * (dark * (1 - pattern) + light * pattern - drawn)
    mask = np.zeros((size, size), bool)
    mask[down, across] = cover >= 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    bbox = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]

    # The badge keeps clear of the object's circle; a corner always does when the draws do not.
    badge = rng.uniform(0.06, 0.08) * size
    spots = rng.uniform(badge + 1, size - badge - 1, (32, 2))
    corners = np.array([[a, b] for a in (badge + 1, size - badge - 1) for b in (badge + 1, size - badge - 1)])
    distance = [np.hypot(*(s - [centre_x, centre_y]).T) - radius - badge for s in (spots, corners)]
    clear = np.flatnonzero(distance[0] > 1)
    badge_x, badge_y = spots[clear[0]] if len(clear) else corners[np.argmax(distance[1])]
    reach = np.hypot(x - badge_x, y - badge_y)
    image += np.clip(badge + 0.5 - reach, 0, 1)[..., None] * (0.95 - image)  # a light rim
    image += np.clip(badge * 0.75 + 0.5 - reach, 0, 1)[..., None] * (badge_colour(cue) - image)

    image += rng.normal(0, 0.03, image.shape)
    return {
        "image": (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8),
        "mask": mask.astype(np.uint8) * 255,
        "bbox": [float(b) for b in bbox],
        "cue_bbox": [float(badge_x - badge), float(badge_y - badge), float(2 * badge), float(2 * badge)],
    }


def rows(split: str, n: int | None = None, size: int = 96, seed: int = 0, cue: float = CUE) -> Iterator[dict[str, Any]]:
    """The rows of a split, one dict at a time: ``draw``'s fields, ``label`` and ``cue``; see :func:`make`."""
    if split not in _SPLITS:
        raise ValueError(f"shapes has no split {split!r}: it has {', '.join(_SPLITS)}")
    if not 0 <= cue <= 1:
        raise ValueError(f"cue is a probability between 0 and 1, got {cue}")
    if size < 32:
        raise ValueError(f"shapes are drawn at 32 pixels a side or more, got size={size}")
    n = SIZES[split] if n is None else n
    if n < 1:
        raise ValueError(f"a split has at least one image, got n={n}")
    told = 0.0 if split == "test" else cue
    for i in range(n):
        # One generator an image: the first 100 of 1000 images are the 100 of a smaller split.
        rng = np.random.default_rng(np.random.SeedSequence([seed, _SPLITS.index(split), i]))
        label = i % len(CLASSES)
        shown = label if rng.random() < told else int(rng.integers(len(CLASSES)))
        yield {**draw(rng, label, shown, size), "label": label, "cue": shown}


def _png(array: np.ndarray) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def make(
    split: str = "train", n: int | None = None, size: int = 96, seed: int = 0, cue: float = CUE
) -> datasets.Dataset:
    """A split, in memory.

    Args:
        split: ``train``, ``validation``, ``test`` (the cue is independent of the class) or ``test_intact``.
        n: images; None for :data:`SIZES`. Classes take turns, so they are balanced.
        size: side in pixels, 32 or more.
        seed: splits of one seed never share an image, nor do two seeds.
        cue: probability that the badge is the class's own; otherwise it is any class's, all alike. ``test`` ignores it.

    Returns:
        A dataset with ``image``, ``label``, ``mask`` (255 object, 0 background), ``bbox`` [[x, y, width, height]],
        ``cue`` (the class whose badge is shown) and ``cue_bbox``.

    Raises:
        ValueError: an unknown split, or n, size or cue out of range.
    """
    import datasets  # here: the drawing itself is wanted without it

    columns: dict[str, list] = {name: [] for name in _features()}
    for row in rows(split, n, size, seed, cue):
        row.update(image=_png(row["image"]), mask=_png(row["mask"]), bbox=[row["bbox"]], cue_bbox=[row["cue_bbox"]])
        for name, values in columns.items():
            values.append(row[name])
    return datasets.Dataset.from_dict(columns, features=_features())


def _features() -> datasets.Features:
    import datasets

    names, boxes = datasets.ClassLabel(names=list(CLASSES)), datasets.List(datasets.List(datasets.Value("float32")))
    picture = datasets.Image()
    return datasets.Features(image=picture, label=names, mask=picture, bbox=boxes, cue=names, cue_bbox=boxes)


def write(folder: str | Path, splits: tuple[str, ...] = _SPLITS, n: int | None = None, **options: Any) -> Path:
    """The dataset as an imagefolder: ``<folder>/<split>/*.png``, ``masks/*.png`` and ``metadata.jsonl``.

    Args:
        folder: made if missing; a split that is already there is refused.
        splits: which splits.
        n: images a split; None for :data:`SIZES`.
        **options: ``size``, ``seed`` and ``cue`` of :func:`make`.

    Raises:
        ValueError: a split's folder exists already, or as :func:`make`.
    """
    return write_splits(folder, {split: rows(split, n, **options) for split in splits}, _save)


def _save(here: Path, name: str, row: dict[str, Any]) -> dict[str, Any]:
    Image.fromarray(row["image"]).save(here / f"{name}.png")
    Image.fromarray(row["mask"]).save(here / "masks" / f"{name}.png")
    line = {"file_name": f"{name}.png", "label": CLASSES[row["label"]], "mask_file_name": f"masks/{name}.png"}
    return line | {"bbox": [row["bbox"]], "cue": CLASSES[row["cue"]], "cue_bbox": [row["cue_bbox"]]}
