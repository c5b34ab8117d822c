"""How good is a map? Functions on tensors with a value for every sample, and a ``torchmetrics.Metric`` beside each.

Perturbation: insertion, deletion and their kin, ROAD. Localisation: against masks or boxes. Shape and agreement: of
maps alone. Sanity: randomisation tests and controls. Classification, by group too. Intervals and tests for all of them.
The classes are loaded when first asked for: importing torchmetrics takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _judged  # noqa: F401  (its measures are registered)
from ._fills import blur, blur_kernel, fill_image
from ._registry import Measure, list_measures, register_measure
from .agreement import AgreementResult, compare, cross_correlation, pearson, rank_correlation, ssim
from .attribution import attribution_detail, attribution_mass
from .classification import (
    accuracy,
    attribute_accuracy,
    average_precision,
    class_means,
    classification_scores,
    correct,
    f1,
    top5_accuracy,
    voc_average_precision,
)
from .confidence import ConfidenceResult, average_drop, confidence, increase_in_confidence
from .ground_truth import boxes_to_mask, true_positives, usable
from .groups import GroupFigures, group_accuracy, group_figures, group_gap, worst_group_accuracy
from .intervals import (
    Band,
    Interval,
    PairedTest,
    bootstrap,
    bootstrap_band,
    bootstrap_statistic,
    holm,
    paired_test,
    welch_test,
)
from .localisation import (
    energy_inside,
    iou,
    map_auroc,
    map_average_precision,
    mask_correlation,
    median_form,
    pointing_centre,
    pointing_game,
    pointing_with_centre,
    soft_iou,
)
from .mining import MiningResult, insertion_mining
from .perturbation import (
    InsertionDeletion,
    PerturbationResult,
    deletion,
    insertion,
    insertion_and_deletion,
    pixel_flipping,
)
from .rationale import RationaleResult, comprehensiveness, rationale, sufficiency
from .road import RoadResult, impute, road, road_combined
from .sanity import (
    RandomisationResult,
    centre_maps,
    label_randomisation,
    parameter_randomisation,
    random_maps,
    randomise,
    shuffle_labels,
    target_randomisation,
)
from .score_correlation import CausalResult, dauc, iauc
from .shape import diversity, entropy, mean_activation, sparsity
from .temporal import temporal_pointing
from .thresholds import (
    BestIoU,
    MaxBoxAcc,
    best_iou,
    box_overlaps,
    max_box_accuracy,
    pixel_counts,
    pixel_precision,
    threshold_grid,
)
from .token_drop import token_deletion, token_insertion, token_insertion_and_deletion
from .tubes import tube_deletion, tube_insertion

if TYPE_CHECKING:
    from ._modules import (
        DAUC,
        IAUC,
        ROAD,
        Agreement,
        AttributionDetail,
        AttributionMass,
        BestThresholdIoU,
        Classification,
        Confidence,
        Deletion,
        Diversity,
        EnergyInside,
        Entropy,
        GroupAccuracy,
        Insertion,
        InsertionAndDeletion,
        InsertionMining,
        IoU,
        MapAUROC,
        MapAveragePrecision,
        MaskCorrelation,
        MaxBoxAccuracy,
        MeanActivation,
        PerSampleMetric,
        PixelFlipping,
        PointingGame,
        Rationale,
        SoftIoU,
        Sparsity,
        TokenInsertionAndDeletion,
    )

__all__ = [
    "Agreement",
    "AgreementResult",
    "AttributionDetail",
    "AttributionMass",
    "Band",
    "BestIoU",
    "BestThresholdIoU",
    "CausalResult",
    "Classification",
    "Confidence",
    "ConfidenceResult",
    "DAUC",
    "Deletion",
    "Diversity",
    "EnergyInside",
    "Entropy",
    "GroupAccuracy",
    "GroupFigures",
    "IAUC",
    "Insertion",
    "InsertionAndDeletion",
    "InsertionDeletion",
    "InsertionMining",
    "Interval",
    "IoU",
    "MapAUROC",
    "MapAveragePrecision",
    "MaskCorrelation",
    "MaxBoxAcc",
    "MaxBoxAccuracy",
    "MeanActivation",
    "Measure",
    "MiningResult",
    "PairedTest",
    "PerSampleMetric",
    "PerturbationResult",
    "PixelFlipping",
    "PointingGame",
    "ROAD",
    "RandomisationResult",
    "Rationale",
    "RationaleResult",
    "RoadResult",
    "SoftIoU",
    "Sparsity",
    "TokenInsertionAndDeletion",
    "accuracy",
    "attribute_accuracy",
    "attribution_detail",
    "attribution_mass",
    "average_drop",
    "average_precision",
    "best_iou",
    "blur",
    "blur_kernel",
    "bootstrap",
    "bootstrap_band",
    "bootstrap_statistic",
    "box_overlaps",
    "boxes_to_mask",
    "centre_maps",
    "class_means",
    "classification_scores",
    "compare",
    "comprehensiveness",
    "confidence",
    "correct",
    "cross_correlation",
    "dauc",
    "deletion",
    "diversity",
    "energy_inside",
    "entropy",
    "f1",
    "fill_image",
    "group_accuracy",
    "group_figures",
    "group_gap",
    "holm",
    "iauc",
    "impute",
    "increase_in_confidence",
    "insertion",
    "insertion_and_deletion",
    "insertion_mining",
    "iou",
    "label_randomisation",
    "list_measures",
    "map_auroc",
    "map_average_precision",
    "mask_correlation",
    "max_box_accuracy",
    "mean_activation",
    "median_form",
    "paired_test",
    "parameter_randomisation",
    "pearson",
    "pixel_counts",
    "pixel_flipping",
    "pixel_precision",
    "pointing_centre",
    "pointing_game",
    "pointing_with_centre",
    "random_maps",
    "randomise",
    "rank_correlation",
    "rationale",
    "register_measure",
    "road",
    "road_combined",
    "shuffle_labels",
    "soft_iou",
    "sparsity",
    "ssim",
    "sufficiency",
    "target_randomisation",
    "temporal_pointing",
    "threshold_grid",
    "token_deletion",
    "token_insertion",
    "token_insertion_and_deletion",
    "top5_accuracy",
    "true_positives",
    "tube_deletion",
    "tube_insertion",
    "usable",
    "voc_average_precision",
    "welch_test",
    "worst_group_accuracy",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # and not in this module yet: one of the classes
        from . import _modules

        return getattr(_modules, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
