"""Weights stored in half precision are trained as float32: most steps of a fine-tune are smaller than a half can tell.

A bfloat16 has eight bits: near 1 the next number is 0.008 away, and a step of 1e-5 is rounded to nothing. Where a step
is to be computed in half precision ``mixed_precision`` says so; the weights that are updated stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


def widen(model: nn.Module) -> dict[str, torch.dtype]:
    """Make every parameter and buffer of half precision float32, in place; their names, with what they were."""
    half = {name: value for name, value in _values(model).items() if value.dtype in HALF}
    found = {name: value.dtype for name, value in half.items()}
    for value in half.values():
        value.data = value.data.float()
    return found


def narrow(model: nn.Module, types: Mapping[str, torch.dtype]) -> None:
    """Put the types that :func:`widen` found back, in place; the values are rounded."""
    values = _values(model)
    for name, dtype in types.items():
        values[name].data = values[name].data.to(dtype)


@contextmanager
def stored_as(model: nn.Module, types: Mapping[str, torch.dtype]) -> Iterator[None]:
    """The types that :func:`widen` found within the block, to save the model; afterwards the float32 values again."""
    values = _values(model)
    full = {name: values[name].data for name in types}
    narrow(model, types)
    try:
        yield
    finally:
        for name, value in full.items():
            values[name].data = value


def _values(model: nn.Module) -> dict[str, Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])
