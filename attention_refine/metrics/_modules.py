"""The measures as ``torchmetrics.Metric``: fed by batches, synchronised, every sample's value kept.

``metric = Deletion(n_steps=50); metric.update(net, pixel_values, maps, index=batch["index"]); metric.compute()`` gives
``{"deletion": mean, "deletion_count": n}``, and ``metric.per_sample()`` the values behind them. Options are those of
the function of the same name. With ``index`` (each sample's row in the data set) samples come back in that order, and
one that a distributed sampler repeated counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ._per_sample import PerSampleMetric
from .agreement import SIMILARITIES, compare
from .attribution import attribution_detail, attribution_mass
from .classification import classification_scores, correct
from .confidence import confidence
from .groups import group_figures
from .localisation import (
    energy_inside,
    iou,
    map_auroc,
    map_average_precision,
    mask_correlation,
    pointing_with_centre,
    soft_iou,
)
from .mining import insertion_mining
from .perturbation import deletion, insertion, insertion_and_deletion, pixel_flipping
from .rationale import rationale
from .road import road_combined
from .score_correlation import dauc, iauc
from .shape import diversity, entropy, mean_activation, sparsity
from .thresholds import best_iou, box_overlaps, max_box_accuracy
from .token_drop import token_insertion_and_deletion


def _metric(
    name: str, measure: Callable[..., Any], reads: dict[str, str], better: bool | None = None, note: str = ""
) -> type[PerSampleMetric]:
    """The metric class of a function. ``better``: whether higher values are; a value that ends in "curve" is a row."""
    known = {
        "__doc__": f"See :func:`{measure.__name__}`. {note}".rstrip(),
        "__module__": __name__,
        "measure": staticmethod(measure),
        "reads": reads,
        "tables": tuple(value for value in reads if value.endswith("curve")),
        "higher_is_better": better,
    }
    return type(name, (PerSampleMetric,), known)


# update(net, pixel_values, maps, target=None, index=None)
Insertion = _metric("Insertion", insertion, {"insertion": "auc", "insertion_curve": "curve"}, True)
Deletion = _metric("Deletion", deletion, {"deletion": "auc", "deletion_curve": "curve"}, False)
BOTH = {
    "insertion": "insertion.auc",
    "insertion_curve": "insertion.curve",
    "deletion": "deletion.auc",
    "deletion_curve": "deletion.curve",
}
InsertionAndDeletion = _metric("InsertionAndDeletion", insertion_and_deletion, BOTH)
TokenInsertionAndDeletion = _metric(
    "TokenInsertionAndDeletion", token_insertion_and_deletion, {f"token_{name}": path for name, path in BOTH.items()}
)
PixelFlipping = _metric(
    "PixelFlipping",
    pixel_flipping,
    {"pixel_flipping": "auc", "pixel_flipping_aopc": "aopc", "pixel_flipping_curve": "curve"},
)
InsertionMining = _metric(
    "InsertionMining",
    insertion_mining,
    {
        "insertion_mining": "auc",
        "insertion_mining_accuracy": "accuracy_auc",
        "insertion_mining_curve": "curve",
        "insertion_mining_accuracy_curve": "accuracy_curve",
    },
    True,
    "``update(net, pixel_values, maps, labels, index=None)``.",
)
DAUC = _metric("DAUC", dauc, {"dauc": "auc", "dc": "correlation", "dauc_curve": "curve"}, note="DC beside it.")
IAUC = _metric("IAUC", iauc, {"iauc": "auc", "ic": "correlation", "iauc_curve": "curve"}, note="IC beside it.")
Confidence = _metric(
    "Confidence",
    confidence,
    {
        "average_drop": "average_drop",
        "increase_in_confidence": "increase",
        "average_drop_deletion": "average_drop_deletion",
    },
    note="Average drop, increase in confidence, and the drop of the complement.",
)
Rationale = _metric("Rationale", rationale, {"comprehensiveness": "comprehensiveness", "sufficiency": "sufficiency"})
ROAD = _metric("ROAD", road_combined, {"road": ""}, True)

# update(maps, truth, image_size=None, index=None)
IoU = _metric("IoU", iou, {"iou": ""}, True)
BestThresholdIoU = _metric(
    "BestThresholdIoU",
    best_iou,
    {"best_iou": "iou", "best_iou_threshold": "threshold", "best_iou_curve": "curve"},
    True,
)
SoftIoU = _metric("SoftIoU", soft_iou, {"soft_iou": ""}, True)
PointingGame = _metric(
    "PointingGame",
    pointing_with_centre,
    {"pointing_game": "hit", "pointing_centre": "centre"},
    True,
    "The centre's own score beside it.",
)
EnergyInside = _metric("EnergyInside", energy_inside, {"energy_inside": ""}, True)
MaskCorrelation = _metric("MaskCorrelation", mask_correlation, {"mask_correlation": ""}, True)
MapAUROC = _metric("MapAUROC", map_auroc, {"map_auroc": ""}, True)
MapAveragePrecision = _metric("MapAveragePrecision", map_average_precision, {"map_average_precision": ""}, True)
AttributionMass = _metric("AttributionMass", attribution_mass, {"attribution_mass": ""}, True)
AttributionDetail = _metric("AttributionDetail", attribution_detail, {"attribution_detail": ""})

# update(maps, index=None)
MeanActivation = _metric(
    "MeanActivation",
    mean_activation,
    {"mean_activation": ""},
    note="Lower is sparser; ``update(maps, feature_norm=None, index=None)``.",
)
Sparsity = _metric("Sparsity", sparsity, {"sparsity": ""}, note="Higher is sparser.")
Entropy = _metric("Entropy", entropy, {"entropy": ""})
Diversity = _metric("Diversity", diversity, {"diversity": ""})
Agreement = _metric(
    "Agreement",
    compare,
    {name: name for name in SIMILARITIES},
    note="All measures of :mod:`agreement` of two maps of each image; ``update(maps, other_maps, index=None)``.",
)


class MaxBoxAccuracy(PerSampleMetric):
    """See :func:`box_overlaps` and :func:`max_box_accuracy`; ``update(maps, boxes, image_size, index=None)``."""

    higher_is_better = True
    measure = staticmethod(box_overlaps)
    reads = {"box_overlaps": ""}
    tables = ("box_overlaps",)

    def __init__(
        self, at: tuple[float, ...] = (0.3, 0.5, 0.7), metric_options: dict | None = None, **options: Any
    ) -> None:
        super().__init__(metric_options, **options)
        self.at = tuple(at)

    def compute(self) -> dict[str, Tensor]:
        overlaps = self._gathered()["box_overlaps"]
        return {
            "max_box_accuracy": max_box_accuracy(overlaps, self.at).accuracy,
            "max_box_accuracy_count": (~overlaps.isnan().any(1)).sum(),
        }


class Classification(Metric):
    """See :func:`classification_scores`; ``update(logits, labels)``.

    Keeps all logits: ``n * classes`` floats.
    """

    full_state_update = False
    is_differentiable = False
    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **metric_options: Any) -> None:
        super().__init__(**metric_options)
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.logits.append(logits.detach().float())
        self.labels.append(labels.detach())

    def compute(self) -> dict[str, Tensor]:
        logits, labels = (torch.cat(s) if isinstance(s, list) else s for s in (self.logits, self.labels))
        return classification_scores(logits, labels)


class GroupAccuracy(Metric):
    """See :mod:`attention_refine.metrics.groups`; ``update(logits, labels, groups)``, ``groups`` (B,) int64, -1 unknown.

    ``compute()`` gives ``worst_group_accuracy``, ``group_gap`` and ``group_accuracy`` (G,), over all processes. Keeps
    two numbers a sample.
    """

    full_state_update = False
    is_differentiable = False
    right: list[Tensor]
    groups: list[Tensor]

    def __init__(self, **metric_options: Any) -> None:
        super().__init__(**metric_options)
        self.add_state("right", default=[], dist_reduce_fx="cat")
        self.add_state("groups", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, groups: Tensor) -> None:
        group_figures(right := correct(logits, labels), groups)  # refuses what does not fit, before it is kept
        self.right.append(right)
        self.groups.append(groups.to(right.device).long())

    def sync(self, *args: Any, **kwargs: Any) -> None:
        if self.right == []:  # a process that saw no batch can still join in the gathering
            self.right.append(torch.zeros(0, device=self.device))
            self.groups.append(torch.zeros(0, dtype=torch.long, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        right, groups = (
            s if isinstance(s, Tensor) else torch.cat([torch.empty(0, dtype=t), *s])
            for s, t in ((self.right, torch.float32), (self.groups, torch.long))
        )
        found = group_figures(right, groups)
        return {
            "worst_group_accuracy": found.worst.float(),
            "group_gap": found.gap.float(),
            "group_accuracy": found.means.float(),
        }
