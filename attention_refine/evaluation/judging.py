"""A model's predictions and maps on a batch, measured: one forward for all that can share it, a record an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attention_refine import metrics
from attention_refine.backbones import logits_of, reading_site
from attention_refine.backbones.contexts import quiet
from attention_refine.evaluation.measures import ATTRIBUTED, CONTROLS, MEASURES, measure_maps, names_of
from attention_refine.evaluation.perturbation import perturb
from attention_refine.evaluation.sanity import Sanity, attribution_maps
from attention_refine.maps import by_name, list_maps
from attention_refine.maps._conditions import map_conditions
from attention_refine.maps._pixels import image_size
from attention_refine.maps._site import Reading, tapped
from attention_refine.maps.grad_cam import cam

# Fixed chunks of forwards: a size found by the clock would not give the same last digits twice.
CHUNK = {"cpu": 8, "other": 64}

MapFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]


def map_names() -> list[str]:
    """Names that ``evaluate(maps=...)`` takes: the model's own map, every registered map, and the controls."""
    return ["model", *list_maps(), *CONTROLS]


def map_sources(maps: Sequence[str] | Mapping[str, MapFunction | None]) -> dict[str, MapFunction | None]:
    """The maps to judge, a function each; None for those that come with the forward pass, and for the controls.

    Raises:
        ValueError: a name that is not one of :func:`map_names`, or a bare string.
    """
    if isinstance(maps, str):
        raise ValueError(f"maps must be a list of names, got the string {maps!r}: give [{maps!r}]")
    sources = dict(maps) if isinstance(maps, Mapping) else dict.fromkeys(maps)
    for name, function in sources.items():
        if function is None and name not in ("model", "grad_cam", *CONTROLS):
            if name not in map_names():
                raise ValueError(f"map {name!r} is not one of {', '.join(map_names())}")
            sources[name] = _by_name(name)
    return sources


def _by_name(name: str) -> MapFunction:
    chosen = by_name(name)
    return lambda net, pixel_values, target: chosen(net, pixel_values, target if chosen.per_class else None)


class Judge:
    """Measures batches with one model.

    Args:
        measures: names with options, from :func:`attention_refine.measures.chosen_measures`.
        sources: maps, from :func:`map_sources`.
        multi_label: whether labels are multi-hot.
        perturbed: positions of the images that the costly measures are taken on.
        n_steps: of insertion and deletion.
        seed: of the random control.
        classes: how many the dataset has; 0 where it does not say.
    """

    def __init__(
        self,
        model: nn.Module,
        measures: Mapping[str, Mapping[str, Any]],
        sources: Mapping[str, MapFunction | None],
        *,
        multi_label: bool,
        perturbed: Container[int],
        n_steps: int,
        seed: int,
        classes: int,
    ):
        self.model, self.measures, self.sources = model, measures, sources
        self.preprocessing: dict[str, Any] = getattr(model, "preprocessing", {})
        self.multi_label, self.perturbed, self.n_steps = multi_label, perturbed, n_steps
        self.seed, self.classes = seed, classes
        self.sanity = Sanity(measures)
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        head = getattr(model, "head", None)
        self.per_class = getattr(head, "per_class", False)
        taken = {name for name, function in sources.items() if function is None}
        self.reads_grad_cam = "grad_cam" in taken or ("model" in taken and head is None)

    def __call__(self, batch: dict[str, Any]) -> dict[int, dict]:
        """``{position: {"sample": values, "curves": curves, "classes": number}}`` of a batch."""
        pixels = batch["pixel_values"].to(self.device)
        logits, maps = self.look(pixels, batch["index"])
        if "more_clips" in batch:
            logits = self.averaged(logits, batch["more_clips"])
        self._check_labels(batch, logits.shape[1])
        entries = self._predictions(batch, logits.float().cpu())
        curves: list[dict[str, Any]] = [{} for _ in entries]
        self._on_maps(batch, pixels, logits.argmax(1), maps, entries, curves)
        classes = logits.shape[1]
        records = zip(batch["position"], entries, curves)
        return {position: {"sample": entry, "curves": lines, "classes": classes} for position, entry, lines in records}

    @torch.no_grad()
    def averaged(self, logits: Tensor, others: Tensor) -> Tensor:
        """Logits averaged over those of a video's other clips ``(B, n, 3, T, H, W)``."""
        with quiet(self.model):
            found = [logits, *(logits_of(self.model(clips.to(self.device))) for clips in others.unbind(1))]
        return torch.stack([each.float() for each in found]).mean(0)

    def _check_labels(self, batch: dict[str, Any], outputs: int) -> None:
        if self.classes and self.classes != outputs:
            raise ValueError(
                f"the model has {outputs} classes and the dataset {self.classes}: wrap the model with "
                f"num_labels={self.classes}, or choose the dataset it was trained for"
            )
        labels = batch["labels"]
        if self.multi_label:
            return
        outside = ((labels < 0) | (labels >= outputs)).nonzero().flatten().tolist()
        if outside:
            row, label = int(batch["index"][outside[0]]), int(labels[outside[0]])
            raise ValueError(
                f"row {row} of the dataset has label {label}, and the model's classes are 0 to {outputs - 1}"
            )

    def look(self, pixels: Tensor, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, and every map ``(B, 1, h, w)`` by name. Prediction, head's map and Grad-CAM share a forward.

        Args:
            pixels: ``(B, 3, H, W)`` on the model's device.
            index: ``(B,)`` rows in the dataset, for the random control and for messages.
        """
        grad_cam = None
        with map_conditions(self.model, pixels, create_graph=False) as (net, images):
            if self.reads_grad_cam:
                site = reading_site(net, images)
                with tapped(net.get_submodule(site.name), cut=True) as features:
                    output = net(images)
                logits = logits_of(output)
                reading = Reading(logits, features[0], site.layout, image_size(images))
                grad_cam = cam(reading, logits.gather(1, logits.argmax(1, keepdim=True)), create_graph=False)
            else:
                with torch.no_grad():
                    output = net(images)
        logits = logits_of(output).detach()
        target = logits.argmax(1)
        made: dict[str, Tensor] = {}
        for name, function in self.sources.items():
            if function is not None:
                made[name] = function(self.model, pixels, target)
            elif name in ("grad_cam", "model"):
                maps = getattr(output, "maps", None) if name == "model" else None
                found = grad_cam if maps is None else self._first(maps, target)
                assert found is not None, "reads_grad_cam says so"
                made[name] = found
        # Noise at the size of the first map: coarse and fine noise score differently. The centre at the image's: it is
        # one control for all models, whatever their grid.
        size = tuple(next(iter(made.values())).shape[2:]) if made else (7,) * (pixels.ndim - 2)
        for name in self.sources:
            if name not in made and name == "random":
                noise = metrics.random_maps(index, (math.prod(size[:-1]), size[-1]), self.seed)
                made[name] = noise.reshape(len(index), 1, *size)
            elif name not in made:
                height, width = image_size(pixels)[-2:]
                spot = metrics.centre_maps(len(index), (height, width))
                made[name] = spot if pixels.ndim == 4 else spot[:, :, None].expand(-1, -1, pixels.shape[2], -1, -1)
        made = {name: made[name].detach().float().to(self.device) for name in self.sources}
        for name, maps in made.items():
            broken = (~maps.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
            if broken:
                row = int(index[broken[0]])
                raise ValueError(f"map {name!r} of row {row} of the dataset is not finite: look at the model's weights")
        return logits, made

    def explain(self, name: str, net: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
        """The map of that name of another state of the model, of the classes in ``target (B,)``."""
        function = self.sources[name]
        if function is not None:
            return function(net, pixels, target)
        if name == "grad_cam" or getattr(net, "head", None) is None:
            return by_name("grad_cam")(net, pixels, target)
        with map_conditions(net, pixels, create_graph=False) as (net, images), torch.no_grad():
            return self._first(net(images).maps, target)

    def _first(self, maps: Tensor, target: Tensor) -> Tensor:
        """One map an image: the predicted class's, or the first-ranked."""
        if self.per_class and maps.shape[1] > 1:
            return maps[torch.arange(len(maps), device=maps.device), target][:, None]
        return maps[:, :1]

    def _predictions(self, batch: dict[str, Any], logits: Tensor) -> list[dict[str, Any]]:
        labels = batch["labels"]
        probabilities = logits.sigmoid() if self.multi_label else logits.softmax(1)
        columns = {
            "index": batch["index"].tolist(),
            "file": batch["file"],
            "label": [_classes(row) for row in labels] if self.multi_label else labels.tolist(),
            "prediction": [_classes(row > 0) for row in logits] if self.multi_label else logits.argmax(1).tolist(),
            "score": probabilities.amax(1).tolist(),
            "correct": metrics.correct(logits, labels).bool().tolist(),
            "truth": batch["truth"],
        }
        if "top5_accuracy" in self.measures:
            columns["correct_top5"] = metrics.correct(logits, labels, top_k=5).bool().tolist()
        if self.multi_label:
            columns["logits"] = logits.tolist()
        for name in names_of(self.measures, "labels"):
            function = MEASURES[name].function
            if function is not None:
                found = function(logits, labels, **self.measures[name])
                columns[name] = _numbers(name, found, len(logits))
        entries = [dict(zip(columns, values)) for values in zip(*columns.values())]
        return [entry | groups for entry, groups in zip(entries, batch["groups"])]

    def _on_maps(self, batch: Any, pixels: Any, target: Any, made: Any, entries: Any, curves: Any) -> None:
        """Fill in ``<map>/<measure>`` of every entry, and the curves of those that have one."""
        rows = [row for row, position in enumerate(batch["position"]) if position in self.perturbed]
        mask = batch["mask"].to(self.device) if any(batch["truth"]) else None
        boxes = batch["boxes"] if any(len(boxes) for boxes in batch["boxes"]) else None
        cue = batch["cue"].to(self.device) if batch["cue"].any() else None
        correct = torch.tensor([entry["correct"] for entry in entries])
        chunk = CHUNK["cpu" if self.device.type == "cpu" else "other"]

        def fill(name: str, found: Mapping[str, Tensor], at: Sequence[int]) -> None:
            for measure, values in found.items():
                for row, value in zip(at, _numbers(measure, values, len(at))):
                    entries[row][f"{name}/{measure}"] = value

        for name, maps in made.items():
            fill(name, measure_maps(self.measures, maps, mask, boxes, correct, cue), range(len(entries)))
            if not rows:
                continue
            found, lines = perturb(
                self.measures, self.model, pixels[rows], maps[rows], target[rows], batch["labels"][rows],
                n_steps=self.n_steps, score="sigmoid" if self.multi_label else "softmax", batch_size=chunk,
            )  # fmt: skip
            fill(name, found, rows)
            for measure, (curve, fractions) in lines.items():
                for row, line in zip(rows, curve.tolist()):
                    curves[row][f"{name}/{measure}"] = {"fractions": fractions.tolist(), "curve": line}
            if name not in CONTROLS:
                fill(name, self.sanity(self.model, partial(self.explain, name), pixels[rows], target[rows]), rows)
        if rows and names_of(self.measures, "attribution"):
            maps, error = attribution_maps(self.model, pixels[rows], target[rows], chunk)
            shown = None if mask is None else mask[rows]
            found = measure_maps(self.measures, maps, shown, None, correct[rows], needs=("attribution",))
            missed = {"completeness_error": error} if "completeness_error" in self.measures else {}
            fill(ATTRIBUTED, found | missed, rows)


def _numbers(measure: str, values: Tensor, count: int) -> list[Any]:
    """A sample's value each, None for NaN.

    Raises:
        ValueError: not one a sample.
    """
    if values.ndim == 0 or len(values) != count:
        raise ValueError(f"measure {measure!r} gave {tuple(values.shape)} for {count} samples: it gives (B,), one each")
    known = (~values.isnan()).reshape(count, -1).all(1).tolist()
    return [value if is_known else None for value, is_known in zip(values.tolist(), known)]


def _classes(present: Tensor) -> list[int]:
    return present.nonzero().flatten().tolist()
