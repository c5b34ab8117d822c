"""The options of a training run, checked when they are given; the command line is made from these fields."""

from __future__ import annotations

import difflib
import math
import types
import typing
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from attention_refine.schedules import SCHEDULES

OPTIMIZERS = ("adamw", "adam", "sgd")
PRECISIONS = ("no", "bf16", "fp16")
MODES = ("max", "min")
# A metric whose name has one of these words is better when smaller.
SMALLER_IS_BETTER = ("loss", "error", "deletion", "entropy")


class TrainingError(RuntimeError):
    """A training run cannot start, go on or be resumed; the message says why and what to do."""


def option(default: Any, help: str, **rules: Any) -> Any:
    """A field with its help text and rules: ``choices``; ``at_least``, ``above``, ``at_most``, ``below`` for numbers;
    ``may_change=True`` where a resumed run may differ from the one it continues."""
    metadata = {"help": help, **rules}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class TrainingConfig:
    """Options of :func:`attention_refine.finetune`; ``fields(TrainingConfig)[i].metadata["help"]`` documents each.

    Raises:
        ValueError: a value of the wrong type or out of range; the message names field, value and what is accepted.
    """

    output_dir: str = option("runs/finetune", "folder for checkpoints/, best/ and last/", may_change=True)
    resume: bool = option(False, "continue the run in output_dir from its newest intact checkpoint", may_change=True)
    overwrite: bool = option(False, "delete the checkpoints of an earlier run in output_dir", may_change=True)
    seed: int = option(0, "seed of the order of the images, the augmentation and dropout", at_least=0)

    epochs: int = option(10, "passes over the training images (ignored when max_steps is given)", at_least=1)
    max_steps: int | None = option(None, "optimiser steps in all, in place of epochs", at_least=1)
    batch_size: int = option(32, "images per process and accumulation step", at_least=1)
    gradient_accumulation_steps: int = option(
        1, "batches whose gradients are added up for one optimiser step", at_least=1
    )
    num_workers: int = option(
        0, "processes that load images; 0 loads in the training process", at_least=0, may_change=True
    )
    channels_last: bool = option(False, "channels-last memory format; faster convolutions on most devices")
    mixed_precision: str = option("no", "precision of the forward pass; fp16 needs a GPU", choices=PRECISIONS)
    find_unused_parameters: bool = option(
        True, "several processes: allow parameters that a step's loss does not reach", may_change=True
    )

    optimizer: str = option("adamw", "optimiser", choices=OPTIMIZERS)
    learning_rate: float = option(1e-4, "peak learning rate (of the backbone)", above=0)
    head_learning_rate_multiplier: float = option(
        1.0, "rate of everything that is not pretrained (head, objectives), as a multiple of learning_rate", above=0
    )
    weight_decay: float = option(0.01, "weight decay; norms, biases and other vectors have none", at_least=0)
    momentum: float = option(0.9, "momentum of sgd", at_least=0, below=1)
    clip_grad_norm: float | None = option(
        None, "largest gradient norm; longer gradients are scaled down to it", above=0
    )
    label_smoothing: float = option(0.0, "share of the label spread over all classes", at_least=0, below=1)

    schedule: str = option("cosine", "learning rate over time", choices=SCHEDULES)
    warmup_steps: int = option(0, "optimiser steps of linear warm-up", at_least=0)
    warmup_ratio: float = option(0.0, "warm-up as a share of all steps, in place of warmup_steps", at_least=0, below=1)
    milestones: list[float] = option([], "schedule step: epochs after which the rate is multiplied by gamma", above=0)
    gamma: float = option(0.1, "schedule step: factor at a milestone", above=0, at_most=1)
    final_learning_rate_ratio: float = option(
        0.0, "share of the peak rate that the schedule decays to", at_least=0, at_most=1
    )

    freeze_backbone: bool = option(False, "train the head and the objectives only; implies freeze_batch_norm")
    freeze_batch_norm: bool = option(False, "keep the backbone's batch norm statistics as they are")

    eval_every: int = option(1, "epochs between evaluations; the last epoch is always evaluated", at_least=1)
    eval_batch_size: int | None = option(None, "images per process in evaluation; batch_size if not given", at_least=1)
    monitor: str = option("accuracy", "evaluation metric that chooses the best model")
    monitor_mode: str | None = option(
        None, f"whether larger or smaller is better; if not given, min for names with {', '.join(SMALLER_IS_BETTER)}",
        choices=MODES,
    )  # fmt: skip
    early_stopping_patience: int | None = option(
        None, "evaluations without improvement before the run stops", at_least=1
    )

    save_every_epochs: int | None = option(
        1, "epochs between checkpoints; the end is always saved", at_least=1, may_change=True
    )
    save_every_steps: int | None = option(
        None, "optimiser steps between checkpoints as well", at_least=1, may_change=True
    )
    keep_last: int = option(2, "checkpoints kept; older ones are deleted", at_least=1, may_change=True)
    log_with: str | None = option(None, "tracker: tensorboard, trackio, wandb, ... (see accelerate)", may_change=True)
    log_every: int = option(10, "optimiser steps between log entries of the tracker", at_least=1, may_change=True)
    progress: bool = option(True, "show a progress bar on the main process", may_change=True)

    def __post_init__(self):
        hints = typing.get_type_hints(type(self))
        for each in fields(self):
            value = _typed(each.name, getattr(self, each.name), hints[each.name])
            _check_rules(each.name, value, each.metadata)
            setattr(self, each.name, value)
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
        if self.resume and self.overwrite:
            raise ValueError("resume=True continues the run that overwrite=True would delete: give one of them")

    @property
    def larger_is_better(self) -> bool:
        """Whether the best model has the largest value of the monitored metric."""
        if self.monitor_mode is not None:
            return self.monitor_mode == "max"
        return not any(word in self.monitor.lower() for word in SMALLER_IS_BETTER)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values; ``TrainingConfig.from_dict`` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """A config from plain values.

        Raises:
            ValueError: a key that is no field (the closest one is suggested), or a value that the field refuses.
        """
        names = [each.name for each in fields(cls)]
        for key in values:
            if key not in names:
                close = difflib.get_close_matches(str(key), names, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}"
                raise ValueError(f"unknown training option {key!r}: {hint}")
        return cls(**values)

    def choices_that_matter(self) -> dict[str, Any]:
        """The fields that decide the weights a run ends with: a resumed run must have the same."""
        return {each.name: getattr(self, each.name) for each in fields(self) if not each.metadata.get("may_change")}


def _typed(name: str, value: Any, hint: Any) -> Any:
    """``value`` if it is of the field's type (a whole number passes for a float and becomes one)."""
    accepted = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in accepted:
        if typing.get_origin(kind) is list:
            if isinstance(value, list | tuple):
                (inner,) = typing.get_args(kind)
                return [_typed(name, item, inner) for item in value]
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    words = " or ".join({type(None): "None", int: "a whole number", float: "a finite number", str: "text",
                         bool: "true or false"}.get(kind, "a list of numbers") for kind in accepted)  # fmt: skip
    remedy = ""
    if isinstance(value, str) and float in accepted and _reads_as_number(value):
        remedy = f"; remove the quotes, or in YAML write {float(value)!r} with a decimal point"
    raise ValueError(f"{name}={value!r} is not accepted: it must be {words}{remedy}")


def _reads_as_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_rules(name: str, value: Any, rules: typing.Mapping[str, Any]) -> None:
    if value is None:
        return
    if "choices" in rules and value not in rules["choices"]:
        raise ValueError(f"{name}={value!r} is not accepted: it must be one of {', '.join(rules['choices'])}")
    tests = {
        "at_least": (lambda number, bound: number >= bound, "at least"),
        "above": (lambda number, bound: number > bound, "above"),
        "at_most": (lambda number, bound: number <= bound, "at most"),
        "below": (lambda number, bound: number < bound, "below"),
    }
    given = {rule: rules[rule] for rule in tests if rule in rules}
    for number in value if isinstance(value, list) else [value]:
        if not all(tests[rule][0](number, bound) for rule, bound in given.items()):
            words = " and ".join(f"{tests[rule][1]} {bound}" for rule, bound in given.items())
            raise ValueError(f"{name}={value!r} is not accepted: it must be {words}")
