"""The conditions every map is computed under, and the promise that the network is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..backbones.precision import precision
from ..backbones.unwrapping import unwrapped
from ._second_order import twice_differentiable


@contextmanager
def map_conditions(
    net: nn.Module, pixel_values: Tensor, create_graph: bool, attention: bool = True
) -> Iterator[tuple[nn.Module, Tensor]]:
    """Evaluation statistics, full precision and gradients on; every flag is restored, also after an exception.

    With ``create_graph`` the graph reaches the parameters and ``pixel_values``, and the forward is twice
    differentiable (its attention only with ``attention``). Without it the parameters are held constant, so nothing is
    kept on their account.

    Yields:
        the network without its compiled or data-parallel wrapper (those ignore hooks, or synchronise), and the pixels
        in the parameters' precision, detached unless ``create_graph``.
    """
    net = unwrapped(net)
    pixels = pixel_values if create_graph else pixel_values.detach()
    training = [module for module in net.modules() if module.training]
    trainable = [] if create_graph else [p for p in net.parameters() if p.requires_grad]
    # autocast off: per-pixel gradients of 1e-5 underflow in half precision
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(pixels.device.type, enabled=False):
        if pixels.is_inference():
            pixels = pixels.clone()
        try:
            for module in training:  # the flag, not .eval(): a network may override that
                module.training = False
            for parameter in trainable:
                parameter.requires_grad_(False)
            with twice_differentiable(enabled=create_graph, attention=attention):
                yield net, pixels.to(precision(net, pixels))
        finally:
            for module in training:
                module.training = True
            for parameter in trainable:
                parameter.requires_grad_(True)


def full_precision(maps: Tensor) -> Tensor:
    """At least float32."""
    return maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
