"""The options of a training run, checked when they are given; the command line is made from these fields."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from attention_refine.core.options import Options, option
from attention_refine.training.schedules import SCHEDULES

OPTIMIZERS = ("adamw", "adam", "sgd")
PRECISIONS = ("no", "bf16", "fp16", "auto")
MODES = ("max", "min")
DRIFTS = ("prediction_drift", "prediction_kl")  # how far predictions have moved, see drift.py
BALANCES = ("class", "group")
STRATEGIES = ("combined", "finetune", "alternated")
# A metric whose name has one of these words is better when smaller.
SMALLER_IS_BETTER = ("loss", "error", "deletion", "entropy", "gap")


class TrainingError(RuntimeError):
    """A training run cannot start, go on or be resumed; the message says why and what to do."""


def larger_is_better(metric: str) -> bool:
    """Whether a metric of that name is better when larger."""
    return not any(word in metric.lower() for word in SMALLER_IS_BETTER)


@dataclass
class TrainingConfig(Options):
    """Options of :func:`attention_refine.finetune`; ``fields(TrainingConfig)[i].metadata["help"]`` documents each.

    Raises:
        ValueError: a value of the wrong type or out of range; the message names field, value and what is accepted.
    """

    KNOWN_AS = {
        "lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size", "num_epochs": "epochs",
        "num_train_epochs": "epochs", "max_epochs": "epochs", "per_device_train_batch_size": "batch_size",
        "precision": "mixed_precision", "fp16": "mixed_precision", "bf16": "mixed_precision", "optim": "optimizer",
        "max_grad_norm": "clip_grad_norm", "gradient_clip_val": "clip_grad_norm", "ema": "ema_decay", "patience": "early_stopping_patience",
        "workers": "num_workers", "metric_for_best_model": "monitor", "label_smoothing_factor": "label_smoothing",
        "sync_bn": "sync_batch_norm", "sync_batchnorm": "sync_batch_norm",
        "mixup": "mixup_alpha", "cutmix": "cutmix_alpha", "mixup_switch_probability": "mixup_switch_prob",
        "freeze_epochs": "unfreeze_after_epochs", "unfreeze_backbone_at_epoch": "unfreeze_after_epochs",
        "layer_wise_lr_decay": "layer_decay", "llrd": "layer_decay",
    }  # fmt: skip

    output_dir: str = option("runs/finetune", "folder for checkpoints/, best/ and last/", may_change=True)
    resume: bool = option(False, "continue the run in output_dir from its newest intact checkpoint", may_change=True)
    overwrite: bool = option(False, "delete the checkpoints of an earlier run in output_dir", may_change=True)
    seed: int = option(0, "seed of the order of the images, the augmentation and dropout", at_least=0)

    strategy: str = option(
        "combined", "losses of a step: combined (task and objectives), finetune (label-free objectives only) or "
        "alternated (now the one, now the other)", choices=STRATEGIES,
    )  # fmt: skip
    alternated_alpha: float = option(
        8.0, "strategy alternated: a step is supervised with probability alpha S / (alpha S + U), of S labelled and U "
        "unlabelled images", above=0,
    )  # fmt: skip
    unlabeled_batch_size: int | None = option(
        None, "unlabelled images per process and accumulation step; batch_size if not given", at_least=1
    )

    epochs: int = option(10, "passes over the training images (ignored when max_steps is given)", at_least=1)
    max_steps: int | None = option(None, "optimiser steps in all, in place of epochs", at_least=1)
    batch_size: int = option(32, "images per process and accumulation step", at_least=1)
    gradient_accumulation_steps: int = option(
        1, "batches whose gradients are added up for one optimiser step", at_least=1
    )
    updates_per_batch: int = option(
        1, "optimiser updates on the same batches in a step, the learning rate halved where the loss rises (DARC's loop)",
        at_least=1,
    )  # fmt: skip
    update_tolerance: float = option(
        0.0, "updates_per_batch: the rest are left out once the loss moves by less than this share", at_least=0, below=1
    )
    images_of_a_class: int = option(
        1, "images of one class that follow each other, so that every batch holds pairs (for the triplet loss); divides "
        "batch_size", at_least=1,
    )  # fmt: skip
    annotated_per_batch: int | None = option(
        None, "images in every batch, at least, that have an annotation that the objectives read (mask, boxes, edited map, "
        "cue); they come round more often than the others, an epoch keeps its steps", at_least=1,
    )  # fmt: skip
    balance: str | None = option(
        None, "draw the images so that every class, or every group (a column of that name), comes equally often",
        choices=BALANCES,
    )  # fmt: skip
    num_workers: int = option(
        0, "processes that load images; 0 loads in the training process", at_least=0, may_change=True
    )
    worker_timeout: int = option(
        1800, "seconds after which one of num_workers that gives no batch ends the run; 0 waits for ever", at_least=0,
        may_change=True,
    )  # fmt: skip
    channels_last: bool = option(False, "channels-last memory format; faster convolutions on most devices")
    compile: bool = option(
        False, "torch.compile the pass of each step; a model whose objectives run a part of the network again, or "
        "differentiate twice, runs eagerly, and the log says so", may_change=True,
    )  # fmt: skip
    mixed_precision: str = option(
        "no",
        "precision of the forward pass; fp16 needs a GPU; auto is bf16 where the device is fast at it, else no",
        choices=PRECISIONS,
    )
    keep_dtype: bool = option(
        False, "save best/ and last/ in the precision that the weights came in; they are trained as float32 in any case"
    )
    find_unused_parameters: bool = option(
        True, "several processes: allow parameters that a step's loss does not reach", may_change=True
    )

    optimizer: str = option("adamw", "optimiser", choices=OPTIMIZERS)
    learning_rate: float = option(1e-4, "peak learning rate (of the backbone)", above=0)
    head_learning_rate_multiplier: float = option(
        1.0, "rate of everything that is not pretrained (head, objectives), as a multiple of learning_rate", above=0
    )
    layer_decay: float | None = option(
        None, "rate of each layer of the backbone as a multiple of the rate of the layer above it, such as 0.75 (timm's)",
        above=0, at_most=1,
    )  # fmt: skip
    weight_decay: float = option(0.01, "weight decay; norms, biases and other vectors have none", at_least=0)
    momentum: float = option(0.9, "momentum of sgd", at_least=0, below=1)
    clip_grad_norm: float | None = option(
        None, "largest gradient norm; longer gradients are scaled down to it", above=0
    )
    ema_decay: float | None = option(
        None, "evaluate and save a moving average of the weights over the steps, of this decay, such as 0.999; after few "
        "steps it is smaller", at_least=0, below=1,
    )  # fmt: skip
    skip_steps: int = option(
        0, "steps whose loss or gradient is not finite that are left out, in all; the run stops at the next", at_least=0
    )
    label_smoothing: float = option(0.0, "share of the label spread over all classes", at_least=0, below=1)
    mixup_alpha: float = option(
        0.0,
        "mixup: a labelled image is laid over its neighbour, with a share from Beta(alpha, alpha); 0 is off",
        at_least=0,
    )
    cutmix_alpha: float = option(
        0.0, "cutmix: a box of a labelled image, with mask, edited map and cue, comes from its neighbour, of a share from "
        "Beta(alpha, alpha); 0 is off", at_least=0,
    )  # fmt: skip
    mixup_prob: float = option(1.0, "share of the steps whose images are mixed", at_least=0, at_most=1)
    mixup_switch_prob: float = option(
        0.5,
        "share of these that cutmix takes, where mixup_alpha and cutmix_alpha are both above 0",
        at_least=0,
        at_most=1,
    )

    schedule: str = option("cosine", "learning rate over time", choices=SCHEDULES)
    warmup_steps: int = option(0, "optimiser steps of linear warm-up", at_least=0)
    warmup_ratio: float = option(0.0, "warm-up as a share of all steps, in place of warmup_steps", at_least=0, below=1)
    milestones: list[float] = option([], "schedule step: epochs after which the rate is multiplied by gamma", above=0)
    gamma: float = option(0.1, "schedule step: factor at a milestone", above=0, at_most=1)
    final_learning_rate_ratio: float = option(
        0.0, "share of the peak rate that the schedule decays to", at_least=0, at_most=1
    )

    class_prior: bool | None = option(
        None, "several labels an image: start the classifier at the log-odds of the classes in the training data, with a "
        "tenth of its weights; if not given, where wrap drew the classifier anew and nothing has trained it",
    )  # fmt: skip
    freeze_backbone: bool = option(False, "train the head and the objectives only; implies freeze_batch_norm")
    freeze_extractor: bool = option(False, "keep what comes before the map as it is, batch norm statistics included")
    sync_batch_norm: bool = option(
        False,
        "several GPUs: batch norm statistics of all processes' images (torch's SyncBatchNorm); each takes its own else",
    )
    unfreeze_after_epochs: int | None = option(
        None, "epochs for which freeze_backbone or freeze_extractor hold; all of them if not given", at_least=1
    )
    freeze_batch_norm: bool = option(False, "keep the backbone's batch norm statistics as they are")

    eval_every: int = option(1, "epochs between evaluations; the last epoch is always evaluated", at_least=1)
    eval_batch_size: int | None = option(None, "images per process in evaluation; batch_size if not given", at_least=1)
    eval_objectives: bool = option(
        False, "also measure the label-free objectives on the validation images, as loss/<name>; so does monitoring one"
    )
    eval_start: bool = option(False, "also evaluate the model that the run starts from, as epoch 0; it can be the best")
    monitor: str = option("accuracy", "evaluation metric that chooses the best model; loss/<objective> needs no labels")
    monitor_mode: str | None = option(
        None, f"whether larger or smaller is better; if not given, min for names with {', '.join(SMALLER_IS_BETTER)}",
        choices=MODES,
    )  # fmt: skip
    monitor_images: int = option(
        50, "fewest validation images that choose a model by a share of right answers (accuracy, macro_f1, "
        "worst_group_accuracy); with fewer the last one is kept", at_least=0,
    )  # fmt: skip
    monitor_tolerance: float = option(
        0.02, "second_monitor chooses among the epochs whose monitor is within so much of the best one", at_least=0
    )
    second_monitor: str | None = option(
        "auto", "metric that chooses among the epochs that are nearly as good; auto is mask_correlation where an objective "
        "draws the map to annotations and ten validation images have a mask, else none",
    )  # fmt: skip
    early_stopping_patience: int | None = option(
        None, "evaluations without improvement before the run stops", at_least=1
    )

    max_prediction_drift: float | None = option(
        None, "stop when more than this share of the validation images have another predicted class than at the start; "
        "the best model is one before that, the starting one included", at_least=0, at_most=1,
    )  # fmt: skip

    save_every_epochs: int | None = option(
        1, "epochs between checkpoints; the end is always saved", at_least=1, may_change=True
    )
    save_every_steps: int | None = option(
        None, "optimiser steps between checkpoints as well", at_least=1, may_change=True
    )
    background_checkpoints: bool = option(
        False, "write checkpoints while training goes on, from a copy in main memory (weights, optimiser's state, average)",
        may_change=True,
    )  # fmt: skip
    keep_last: int = option(2, "checkpoints kept; older ones are deleted", at_least=1, may_change=True)
    log_with: str | None = option(None, "tracker: tensorboard, trackio, wandb, ... (see accelerate)", may_change=True)
    log_every: int = option(10, "optimiser steps between log entries of the tracker", at_least=1, may_change=True)
    log_images: int = option(
        8, "validation images that the tracker shows with their maps at each evaluation, the same ones; 0 for none",
        at_least=0, may_change=True,
    )  # fmt: skip
    progress: bool = option(True, "show a progress bar and a line an epoch on the main process", may_change=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output_dir:
            raise ValueError("output_dir is empty: name the folder that the checkpoints go to")
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} and warmup_ratio={self.warmup_ratio} both say how long the warm-up "
                "is: give one of them"
            )
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule 'step' needs milestones: the epochs after which the rate falls, such as [6, 8]")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"milestones={self.milestones} have no effect with schedule {self.schedule!r}: use 'step'")
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, got {self.milestones}")
        if self.batch_size % self.images_of_a_class:
            raise ValueError(
                f"images_of_a_class={self.images_of_a_class} does not divide batch_size={self.batch_size}: a batch must "
                "hold whole groups"
            )
        drawn = [name for name in ("annotated_per_batch", "balance") if getattr(self, name) is not None]
        if drawn and self.images_of_a_class > 1:
            raise ValueError(
                f"images_of_a_class={self.images_of_a_class} and {drawn[0]}={getattr(self, drawn[0])!r} both say which "
                "images a batch holds: give one of them"
            )
        if (self.mixup_alpha or self.cutmix_alpha) and (self.images_of_a_class > 1 or self.batch_size == 1):
            name = "batch_size" if self.batch_size == 1 else "images_of_a_class"
            raise ValueError(
                f"mixup and cutmix mix an image with its neighbour, and with {name}={getattr(self, name)} it has none of "
                "another class: leave one of them out"
            )
        if (self.annotated_per_batch or 0) > self.batch_size:
            raise ValueError(
                f"annotated_per_batch={self.annotated_per_batch} is more than the batch holds, "
                f"batch_size={self.batch_size}: give at most that"
            )
        if self.monitor in DRIFTS and self.max_prediction_drift is None:
            raise ValueError(
                f"monitor={self.monitor!r} keeps the model that has moved furthest within max_prediction_drift: give "
                "that, such as 0.1"
            )
        if self.unfreeze_after_epochs is not None:
            if not (self.freeze_backbone or self.freeze_extractor):
                raise ValueError(
                    f"unfreeze_after_epochs={self.unfreeze_after_epochs} ends what nothing begins: give freeze_backbone or "
                    "freeze_extractor with it"
                )
            if self.max_steps is None and self.unfreeze_after_epochs >= self.epochs:
                raise ValueError(
                    f"unfreeze_after_epochs={self.unfreeze_after_epochs} is not before the end, epochs={self.epochs}: "
                    "leave it out, and all of the run is frozen"
                )
        if self.resume and self.overwrite:
            raise ValueError("resume=True continues the run that overwrite=True would delete: give one of them")

    @property
    def larger_is_better(self) -> bool:
        """Whether the best model has the largest value of the monitored metric."""
        return larger_is_better(self.monitor) if self.monitor_mode is None else self.monitor_mode == "max"

    @property
    def measures_objectives(self) -> bool:
        """Whether an evaluation computes the label-free objectives."""
        return self.eval_objectives or self.monitor.startswith("loss/")

    @property
    def starts_with_evaluation(self) -> bool:
        """Whether the starting model is evaluated."""
        return self.eval_start or self.max_prediction_drift is not None

    def thawed(self, epoch: int) -> bool:
        """Whether ``unfreeze_after_epochs`` are over in that epoch, from 0."""
        return self.unfreeze_after_epochs is not None and epoch >= self.unfreeze_after_epochs

    def choices_that_matter(self) -> dict[str, Any]:
        """The fields that decide the weights a run ends with: a resumed run must have the same."""
        return {each.name: getattr(self, each.name) for each in fields(self) if not each.metadata.get("may_change")}
