"""Modules under their old names: importing one gives the module as it is called now, and says so, for one version."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

MOVED = {
    "backbones.clips": "backbones.video",
    "backbones.cutting": "backbones.partial_forward",
    "backbones.last_linear": "backbones.classifier",
    "backbones.liven": "backbones.calibrate",
    "backbones.scopes": "backbones.contexts",
    "calibration": "embedded.calibration",
    "clip_explanation": "explanation.clip",
    "clips": "embedded.clips",
    "compositing": "drawing.compositing",
    "data.clips": "data.clip_reading",
    "data.loading": "data.loader",
    "data.matching": "data.class_matching",
    "evaluation.altered": "evaluation.sanity",
    "evaluation.perturbed": "evaluation.perturbation",
    "evaluation.whole_set": "evaluation.dataset_level",
    "files": "core.files",
    "filming": "drawing.video_writer",
    "frames": "drawing.frames",
    "heads.base": "heads._base",
    "heads.pooling": "heads._pooling",
    "hub.outline": "hub.meta_build",
    "hub.talking": "hub.retry",
    "inputs": "core.model_inputs",
    "later": "core.later",
    "losses": "core.classification_loss",
    "maps.attention_weights": "maps._attention_weights",
    "maps.baselines": "maps._baselines",
    "maps.conditions": "maps._conditions",
    "maps.names": "maps._registry",
    "maps.pixels": "maps._pixels",
    "maps.progress": "maps._progress",
    "maps.scale": "maps._scale",
    "maps.second_order": "maps._second_order",
    "maps.site": "maps._site",
    "maps.target": "maps._target",
    "metrics.baselines": "metrics._fills",
    "metrics.causal": "metrics.score_correlation",
    "metrics.drop": "metrics.confidence",
    "metrics.eraser": "metrics.rationale",
    "metrics.inputs": "metrics._maps",
    "metrics.judged": "metrics._judged",
    "metrics.measure": "metrics._registry",
    "metrics.modules": "metrics._modules",
    "metrics.per_sample": "metrics._per_sample",
    "metrics.removal": "metrics._stages",
    "metrics.scoring": "metrics._forward",
    "metrics.truth": "metrics.ground_truth",
    "metrics.volume": "metrics._volume",
    "objectives.annotations": "objectives._annotations",
    "objectives.base": "objectives._base",
    "objectives.correlation": "objectives.consistency.correlation",
    "objectives.darc_config": "objectives.darc.config",
    "objectives.decoder": "objectives.darc.decoder",
    "objectives.distributed": "objectives._distributed",
    "objectives.gathering": "objectives._distributed",
    "objectives.hiding": "objectives._masking",
    "objectives.map_sources": "objectives.darc.map_sources",
    "objectives.matching": "objectives.consistency.matching",
    "objectives.occlusion": "objectives.darc.rectangles",
    "objectives.reading": "objectives._reading",
    "objectives.refinement": "objectives.darc.refinement",
    "objectives.regions": "objectives.darc.regions",
    "objectives.siblings": "objectives.consistency.siblings",
    "objectives.teacher": "objectives._teacher",
    "objectives.views": "objectives._views",
    "objectives.waiting": "objectives._waiting",
    "options": "core.options",
    "overlay": "drawing.overlay",
    "places": "core.path_redaction",
    "propagation": "mending.propagation",
    "publishing": "recipe.publish",
    "recommendation": "recipe.recommendation",
    "registry": "core.registry",
    "retraining": "mending.retraining",
    "segmenter": "mending.segmenter",
    "shapes": "embedded.shapes",
    "support": "support_table",
    "training.kinds": "training.image_kinds",
    "words": "core.typed_words",
}
KEPT = {"clips", "overlay", "shapes"}  # short names that the documentation uses, and that stay
GONE_IN = "0.2"


class OldNames(MetaPathFinder, Loader):
    """Finds the old names; asked last, so that a module that is there is itself."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        return spec_from_loader(name, self) if package == "attention_refine" and rest in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"attention_refine.{MOVED[spec.name.partition('.')[2]]}"
        if spec.name.partition(".")[2] not in KEPT:
            warnings.warn(
                f"{spec.name} is {new} now; the old name goes with version {GONE_IN}", DeprecationWarning, stacklevel=2
            )
        module = import_module(new)
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has run under its own name, which it keeps."""
        assert module.__spec__ is not None, "importlib sets it before it runs a module"
        module.__spec__ = self._specs[module.__spec__.name]


def install() -> None:
    """Once a process."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
