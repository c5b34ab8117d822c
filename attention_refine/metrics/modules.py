"""The measures as ``torchmetrics.Metric``: fed by batches, synchronised, every sample's value kept.

``metric = Deletion(n_steps=50); metric.update(net, pixel_values, maps, index=batch["index"]); metric.compute()`` gives
``{"deletion": mean, "deletion_count": n}``, and ``metric.per_sample()`` the values behind them. Options are those of
the function of the same name. With ``index`` (each sample's row in the data set) samples come back in that order, and
one that a distributed sampler repeated counts once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from .agreement import SIMILARITIES, compare
from .attribution import attribution_detail, attribution_mass
from .causal import dauc, iauc
from .classification import classification_scores
from .drop import confidence
from .eraser import rationale
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
from .per_sample import PerSampleMetric
from .perturbation import deletion, insertion, insertion_and_deletion, pixel_flipping
from .road import road_combined
from .shape import diversity, entropy, mean_activation, sparsity
from .thresholds import best_iou, box_overlaps, max_box_accuracy
from .token_drop import token_insertion_and_deletion


class Insertion(PerSampleMetric):
    """See :func:`insertion`; ``update(net, pixel_values, maps, target=None, index=None)``, as all that take a net."""

    higher_is_better = True
    measure = staticmethod(insertion)
    reads = {"insertion": "auc", "insertion_curve": "curve"}
    tables = ("insertion_curve",)


class Deletion(PerSampleMetric):
    """See :func:`deletion`."""

    higher_is_better = False
    measure = staticmethod(deletion)
    reads = {"deletion": "auc", "deletion_curve": "curve"}
    tables = ("deletion_curve",)


class InsertionAndDeletion(PerSampleMetric):
    """See :func:`insertion_and_deletion`."""

    measure = staticmethod(insertion_and_deletion)
    reads = {
        "insertion": "insertion.auc",
        "insertion_curve": "insertion.curve",
        "deletion": "deletion.auc",
        "deletion_curve": "deletion.curve",
    }
    tables = ("insertion_curve", "deletion_curve")


class TokenInsertionAndDeletion(PerSampleMetric):
    """See :func:`token_insertion_and_deletion`."""

    measure = staticmethod(token_insertion_and_deletion)
    reads = {
        "token_insertion": "insertion.auc",
        "token_insertion_curve": "insertion.curve",
        "token_deletion": "deletion.auc",
        "token_deletion_curve": "deletion.curve",
    }
    tables = ("token_insertion_curve", "token_deletion_curve")


class PixelFlipping(PerSampleMetric):
    """See :func:`pixel_flipping`."""

    measure = staticmethod(pixel_flipping)
    reads = {"pixel_flipping": "auc", "pixel_flipping_aopc": "aopc", "pixel_flipping_curve": "curve"}
    tables = ("pixel_flipping_curve",)


class InsertionMining(PerSampleMetric):
    """See :func:`insertion_mining`; ``update(net, pixel_values, maps, labels, index=None)``."""

    higher_is_better = True
    measure = staticmethod(insertion_mining)
    reads = {
        "insertion_mining": "auc",
        "insertion_mining_accuracy": "accuracy_auc",
        "insertion_mining_curve": "curve",
        "insertion_mining_accuracy_curve": "accuracy_curve",
    }
    tables = ("insertion_mining_curve", "insertion_mining_accuracy_curve")


class DAUC(PerSampleMetric):
    """See :func:`dauc`; DC beside it."""

    measure = staticmethod(dauc)
    reads = {"dauc": "auc", "dc": "correlation", "dauc_curve": "curve"}
    tables = ("dauc_curve",)


class IAUC(PerSampleMetric):
    """See :func:`iauc`; IC beside it."""

    measure = staticmethod(iauc)
    reads = {"iauc": "auc", "ic": "correlation", "iauc_curve": "curve"}
    tables = ("iauc_curve",)


class Confidence(PerSampleMetric):
    """See :func:`confidence`: average drop, increase in confidence, and the drop of the complement."""

    measure = staticmethod(confidence)
    reads = {
        "average_drop": "average_drop",
        "increase_in_confidence": "increase",
        "average_drop_deletion": "average_drop_deletion",
    }


class Rationale(PerSampleMetric):
    """See :func:`rationale`: comprehensiveness and sufficiency."""

    measure = staticmethod(rationale)
    reads = {"comprehensiveness": "comprehensiveness", "sufficiency": "sufficiency"}


class ROAD(PerSampleMetric):
    """See :func:`road_combined`."""

    higher_is_better = True
    measure = staticmethod(road_combined)
    reads = {"road": ""}


class IoU(PerSampleMetric):
    """See :func:`iou`; ``update(maps, truth, image_size=None, index=None)``, as for all localisation measures."""

    higher_is_better = True
    measure = staticmethod(iou)
    reads = {"iou": ""}


class BestThresholdIoU(PerSampleMetric):
    """See :func:`best_iou`."""

    higher_is_better = True
    measure = staticmethod(best_iou)
    reads = {"best_iou": "iou", "best_iou_threshold": "threshold", "best_iou_curve": "curve"}
    tables = ("best_iou_curve",)


class MaxBoxAccuracy(PerSampleMetric):
    """See :func:`box_overlaps` and :func:`max_box_accuracy`; ``update(maps, boxes, image_size, index=None)``."""

    higher_is_better = True
    measure = staticmethod(box_overlaps)
    reads = {"box_overlaps": ""}
    tables = ("box_overlaps",)

    def __init__(self, at: tuple[float, ...] = (0.3, 0.5, 0.7), metric_options: dict | None = None, **options):
        super().__init__(metric_options, **options)
        self.at = tuple(at)

    def compute(self) -> dict[str, Tensor]:
        overlaps = self._gathered()["box_overlaps"]
        return {
            "max_box_accuracy": max_box_accuracy(overlaps, self.at).accuracy,
            "max_box_accuracy_count": (~overlaps.isnan().any(1)).sum(),
        }


class SoftIoU(PerSampleMetric):
    """See :func:`soft_iou`."""

    higher_is_better = True
    measure = staticmethod(soft_iou)
    reads = {"soft_iou": ""}


class PointingGame(PerSampleMetric):
    """See :func:`pointing_game`; the centre's own score beside it."""

    higher_is_better = True
    measure = staticmethod(pointing_with_centre)
    reads = {"pointing_game": "hit", "pointing_centre": "centre"}


class EnergyInside(PerSampleMetric):
    """See :func:`energy_inside`."""

    higher_is_better = True
    measure = staticmethod(energy_inside)
    reads = {"energy_inside": ""}


class MaskCorrelation(PerSampleMetric):
    """See :func:`mask_correlation`."""

    higher_is_better = True
    measure = staticmethod(mask_correlation)
    reads = {"mask_correlation": ""}


class MapAUROC(PerSampleMetric):
    """See :func:`map_auroc`."""

    higher_is_better = True
    measure = staticmethod(map_auroc)
    reads = {"map_auroc": ""}


class MapAveragePrecision(PerSampleMetric):
    """See :func:`map_average_precision`."""

    higher_is_better = True
    measure = staticmethod(map_average_precision)
    reads = {"map_average_precision": ""}


class AttributionMass(PerSampleMetric):
    """See :func:`attribution_mass`."""

    higher_is_better = True
    measure = staticmethod(attribution_mass)
    reads = {"attribution_mass": ""}


class AttributionDetail(PerSampleMetric):
    """See :func:`attribution_detail`."""

    measure = staticmethod(attribution_detail)
    reads = {"attribution_detail": ""}


class MeanActivation(PerSampleMetric):
    """See :func:`mean_activation` (lower is sparser); ``update(maps, feature_norm=None, index=None)``."""

    measure = staticmethod(mean_activation)
    reads = {"mean_activation": ""}


class Sparsity(PerSampleMetric):
    """See :func:`sparsity` (higher is sparser)."""

    measure = staticmethod(sparsity)
    reads = {"sparsity": ""}


class Entropy(PerSampleMetric):
    """See :func:`entropy`."""

    measure = staticmethod(entropy)
    reads = {"entropy": ""}


class Diversity(PerSampleMetric):
    """See :func:`diversity`."""

    measure = staticmethod(diversity)
    reads = {"diversity": ""}


class Agreement(PerSampleMetric):
    """Two maps of each image by all four measures of :mod:`agreement`; ``update(maps, other_maps, index=None)``."""

    measure = staticmethod(compare)
    reads = {name: name for name in SIMILARITIES}


class Classification(Metric):
    """See :func:`classification_scores`; ``update(logits, labels)``.

    Keeps all logits: ``n * classes`` floats.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, **metric_options):
        super().__init__(**metric_options)
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.logits.append(logits.detach().float())
        self.labels.append(labels.detach())

    def compute(self) -> dict[str, Tensor]:
        logits, labels = (torch.cat(s) if isinstance(s, list) else s for s in (self.logits, self.labels))
        return classification_scores(logits, labels)
