"""The last layer of a network, which reads one vector an image and gives the logits; and that vector."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def classifiers(net: nn.Module, classes: int) -> list[nn.Module]:
    """A network's last layers: those timm names, else the last one with an output per class; none where none has."""
    get_classifier = getattr(net, "get_classifier", None)
    if callable(get_classifier):
        named = get_classifier()
        return [m for m in (named if isinstance(named, (tuple, list)) else [named]) if isinstance(m, nn.Module)]
    layers = [m for m in net.modules() if getattr(m, "out_features", getattr(m, "out_channels", None)) == classes]
    return layers[-1:]


def last_layer(net: nn.Module, classes: int) -> Layer:
    """The linear layer (or convolution) that reads the embedding; the first where there are several.

    Raises:
        ValueError: no such layer.
    """
    inner = [module for layer in classifiers(net, classes) for module in layer.modules() if isinstance(module, Layer)]
    if not inner:
        raise ValueError(
            f"{type(net).__name__} has no last linear layer of {classes} classes to read embeddings before: wrap a "
            "classifier, or pass pool='avg'"
        )
    return inner[0]


def fingerprint(net: nn.Module, classes: int) -> str:
    """A checksum of the weights of a network's last layers: another one once they were trained or loaded."""
    digest = hashlib.blake2b(digest_size=16)
    for layer in classifiers(net, classes):
        for name, value in sorted(layer.state_dict().items()):
            digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def embedding_size(layer: Layer) -> int:
    """What :func:`last_layer` reads of an image."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def embeddings(network: Callable[[Tensor], Tensor], layer: nn.Module, pixel_values: Tensor) -> Tensor:
    """``(B, D)``: what ``layer`` reads when the network sees the images; a mean over locations where it reads several.

    Raises:
        RuntimeError: the forward pass does not call the layer.
    """
    read: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    try:
        network(pixel_values)
    finally:
        handle.remove()
    if not read:
        raise RuntimeError(f"the forward pass never called the last layer, {layer}, whose input is the embedding")
    vectors = read[0]
    if isinstance(layer, _CONVOLUTIONS):
        return vectors.flatten(2).mean(2)
    return vectors if vectors.ndim == 2 else vectors.flatten(1, -2).mean(1)


class LastLinear(TorchFunctionMode):
    """Remembers the last linear layer of a forward pass: its input, weight and output."""

    def __init__(self) -> None:
        super().__init__()
        self.input: Tensor | None = None
        self.weight: Tensor | None = None
        self.output: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is F.linear:
            self.input, self.weight = (*args, *kwargs.values())[:2]
            self.output = output
        return output
