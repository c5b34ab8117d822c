"""What a model is called with, looked at before anything runs: a usual mistake ends in the sentence that mends it."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What ar.data gives beside pixel_values and labels, and what trainers add to a batch.
COLUMNS = ("boxes", "cue", "edited", "edited_map", "group", "index", "mask", "mask_confidence", "more_clips")
ADDED = ("darc_holes", "darc_map", "mixed_classes", "mixed_share", "update", "views")
ARGUMENTS = ("compute_aux", "compute_losses", "labels", "maps", "objectives", "pixel_values", "smoothing")
BYTES = 20  # times the largest normalised pixel: no normalised photograph reaches that, pixels of 0 to 255 do

_LOOKED_AT: WeakSet[nn.Module] = WeakSet()  # models whose first pixels were looked at: a GPU waits for such a look


Forward = TypeVar("Forward", bound=Callable[..., Any])


def naming_columns(forward: Forward) -> Forward:
    """Name the columns of a batch in the signature of a ``forward(..., **columns)``.

    transformers.Trainer asks the signature which columns of a dataset it is to keep.
    """
    own = inspect.signature(forward)
    *before, rest = own.parameters.values()
    taken = {parameter.name for parameter in before}
    named = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Any")
        for name in (*ARGUMENTS, *COLUMNS, *ADDED)
        if name not in taken
    ]
    signed: Any = forward
    signed.__signature__ = own.replace(parameters=[*before, *named, rest])
    return forward


def name_also(forward: Any, columns: Iterable[str]) -> None:
    """Further columns in a signature that :func:`naming_columns` made: those that an objective declares it reads."""
    own = forward.__signature__
    *before, rest = own.parameters.values()
    added = [name for name in columns if name not in own.parameters]
    if not added:
        return
    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Any") for name in added]
    forward.__signature__ = own.replace(parameters=[*before, *named, rest])


def check_pixels(model: nn.Module, pixel_values: Any, preprocessing: dict[str, Any]) -> None:
    """Refuse what is no batch of pixels; the first batch a model sees is warned about where it holds 0 to 255.

    Raises:
        TypeError: a path, a picture, an array, or a tensor of whole numbers.
        ValueError: one image without a batch dimension, or another shape than the model's.
    """
    if not isinstance(pixel_values, Tensor):
        raise TypeError(
            f"a model is called with pixel_values (B, 3, H, W), got {_shown(pixel_values)}; make them with "
            "model.preprocess(photo), or let model.show(photo) do all of it"
        )
    if not pixel_values.is_floating_point():
        raise TypeError(
            f"pixel_values are {pixel_values.dtype}, and must be normalised floats: model.preprocess(photo) makes them, "
            "and ar.data.prepare(dataset, model.preprocessing) those of a dataset"
        )
    if pixel_values.ndim == len(preprocessing["input_size"]):
        what = "one image" if pixel_values.ndim == 3 else "one clip, or images for a network of clips"
        raise ValueError(
            f"pixel_values of shape {tuple(pixel_values.shape)} are {what} without a batch; pass pixel_values[None]"
        )
    channels, wanted = preprocessing["input_size"][0], len(preprocessing["input_size"]) + 1
    if pixel_values.ndim != wanted or pixel_values.shape[1] != channels:
        remedy = "model.preprocess(photo) makes them"
        if pixel_values.ndim == wanted and pixel_values.shape[-1] == channels:
            remedy = "put the channels first, pixel_values.movedim(-1, 1)"
        sides = "H, W" if wanted == 4 else "T, H, W"
        raise ValueError(
            f"pixel_values are of shape {tuple(pixel_values.shape)}, and the model takes (B, {channels}, {sides}): {remedy}"
        )
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or model in _LOOKED_AT or pixel_values.is_meta:
        return
    _LOOKED_AT.add(model)
    largest = max((1 - mean) / std for mean, std in zip(preprocessing["mean"], preprocessing["std"]))
    found = pixel_values.detach().amax().item() if pixel_values.numel() else 0.0
    if found > BYTES * largest:
        warnings.warn(
            f"pixel_values reach {found:.0f} where normalised ones end at {largest:.1f}: they seem to be 0 to 255; use "
            "model.preprocess(photo), or divide by 255, subtract model.preprocessing['mean'] and divide by 'std'",
            stacklevel=_OF_THE_CALLER,
        )


def check_labels(labels: Any, names: Sequence[str]) -> None:
    """Refuse labels that are no tensor.

    Raises:
        TypeError: class names, or a list of numbers.
    """
    if labels is None or isinstance(labels, Tensor):
        return
    several = labels if isinstance(labels, (list, tuple)) else [labels]
    remedy = (
        f"torch.tensor({list(several)!r})" if all(isinstance(one, int) for one in several) else "torch.tensor([0, 3])"
    )
    if several and all(isinstance(one, str) for one in several):
        known = [name for name in several if name in names]
        remedy = "torch.tensor([model.labels.index(name) for name in names])"
        if len(known) < len(several):
            other = next(name for name in several if name not in names)
            remedy += (
                f", and {other!r} is none of the model's: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"
            )
    raise TypeError(
        f"labels must be a tensor of class indices (B,), or of 0 and 1 (B, classes), got {_shown(labels)}; pass {remedy}"
    )


def refuse_checkpointing(model: nn.Module, *args: Any, **options: Any) -> None:
    """What transformers.Trainer calls for ``gradient_checkpointing=True``.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "gradient_checkpointing is not there for a model whose map acts inside of its network: leave it out, and take "
        "smaller batches with gradient_accumulation_steps where memory is short"
    )


def check_labels_left(labels: Any, losing: Sequence[str]) -> None:
    """Refuse a training step for which transformers.Trainer counted labels and then kept them to itself.

    Args:
        losing: the parts of the model whose losses need the labels.

    Raises:
        ValueError: there are such parts, and no labels.
    """
    if labels is None and losing:
        raise ValueError(
            "transformers.Trainer takes the labels away and puts a loss of its own in place of the model's where it has "
            f"label_smoothing_factor or compute_loss_func: the losses of {' and '.join(losing)} would be lost. Leave both "
            "out; the model smooths labels itself: data_collator=lambda items: {**ar.data.collate(items), "
            "'smoothing': 0.1}"
        )


def check_maps(maps: Tensor) -> None:
    """Refuse a person's map outside [0, 1].

    Raises:
        ValueError: it is that of a picture file, 0 to 255, or has negative values.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or maps.is_meta or not maps.numel():
        return
    low, high = (value.item() for value in maps.detach().aminmax())
    if low < 0 or high > 1:
        remedy = "divide by 255" if low >= 0 and high > 2 else "scale them with ar.maps.normalize"
        raise ValueError(f"maps lie in [0, 1], these reach from {low:g} to {high:g}; {remedy}")


def given_maps(maps: Tensor, grid: Tensor, count: int) -> Tensor:
    """A person's maps at the resolution of the feature they act on, bilinear.

    Args:
        maps: ``(B, 1 or K, h, w)``.
        grid: the feature, ``(B, C, h, w)``, or ``(B, C, t, h, w)``.
        count: K, how many maps the head makes.

    Raises:
        ValueError: another shape.
    """
    if maps.ndim != grid.ndim or len(maps) != len(grid) or maps.shape[1] not in (1, count):
        wanted = f"(batch, {'1' if count == 1 else f'1 or {count}'}, h, w) with a batch of {len(grid)}"
        raise ValueError(f"maps must be {wanted}, got {tuple(maps.shape)}")
    maps, size = maps.to(grid.device).float(), grid.shape[2:]
    if maps.shape[2:] == size:
        return maps
    mode = "bilinear" if len(size) == 2 else "trilinear"
    # antialias: a thin stroke drawn at image size must not fall between two samples
    return F.interpolate(maps, size, mode=mode, align_corners=False, antialias=mode == "bilinear")


@contextmanager
def one_image() -> Iterator[None]:
    """A training pass of a single image: what batch norm cannot do with it is said with the remedy.

    Raises:
        ValueError: a norm over one value a channel.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "a batch of one image leaves a batch norm one value a channel, of which it has no statistics in training: "
            "take two images or more (TrainingConfig(batch_size=2), a DataLoader with drop_last=True) or larger images, or "
            "keep the backbone's norms as they are (TrainingConfig(freeze_batch_norm=True))"
        ) from error


def is_inference() -> bool:
    """Whether ``torch.inference_mode`` is on; ``torch.compile`` cannot follow the question."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


@contextmanager
def in_inference_mode() -> Iterator[None]:
    """Losses inside ``torch.inference_mode``: what cannot be differentiated there is said with the remedy.

    Raises:
        RuntimeError: an objective takes a gradient.
    """
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            "the losses of the model's objectives cannot be computed in torch.inference_mode: one of them takes a gradient. "
            "Use torch.no_grad() (lightning.Trainer(inference_mode=False)), or leave them out: model(pixel_values)"
        ) from error


class Watched(dict):
    """A batch that remembers which of its columns were asked for."""

    def __init__(self, columns: dict[str, Any], seen: set[str]):
        super().__init__(columns)
        self.seen = seen

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.seen.add(str(key))
        return super().__contains__(key)


def unknown_columns(columns: Iterable[str], objectives: Iterable[Any]) -> set[str]:
    """Those that neither the library's data nor an objective's declaration has: a word misspelt, or one's own."""
    left = set(columns)
    return left.difference(COLUMNS, ADDED, *(each.reads for each in objectives)) if left else left


def warn_unread(unread: Iterable[str]) -> None:
    """Name columns that no objective asked for, with the word that was meant."""
    for name in sorted(unread):
        close = difflib.get_close_matches(name, (*COLUMNS, *ARGUMENTS), n=1, cutoff=0.7)
        hint = f"did you mean {close[0]!r}?" if close else f"columns that are read: {', '.join(COLUMNS)}"
        warnings.warn(
            f"model(..., {name}=...) is read by nothing, so it is without effect; {hint}", stacklevel=_OF_THE_CALLER
        )


_OF_THE_CALLER = 6  # past this module, forward and torch's call


def _shown(value: Any) -> str:
    text = repr(value)
    kind = type(value).__name__
    return f"{kind} {text}" if len(text) <= 60 else f"a {kind}"
