"""From a network to its description, and back: the libraries, and what this package put around the network."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from . import timm_spec, torchvision_spec, transformers_spec
from .pooling import PatchPooling
from .resolution import Resolution, inside, resolution_of
from .spec import BackboneSpec, NotRebuildable, library_of
from .video import FramesFirst

_LIBRARIES = {"timm": timm_spec, "transformers": transformers_spec, "torchvision": torchvision_spec}


def rebuild(spec: BackboneSpec) -> nn.Module:
    """The network with fresh weights. Names outside the three libraries' registries are refused."""
    net = _LIBRARIES[spec.source].build(spec)
    if spec.resolution is not None:
        Resolution.from_dict(spec.resolution).apply(inside(net))
    return net if spec.pooling is None else PatchPooling.from_dict(net, spec.pooling)


def describe(net: nn.Module) -> BackboneSpec:
    """The spec of a timm, transformers or torchvision network, with patch pooling or without.

    Raises:
        NotRebuildable: another kind of module, a timm model built without ``create_model``, or arguments that are not
            plain data.
    """
    resolution = resolution_of(net)
    if resolution is not None:
        with resolution.undone(inside(net)):
            return replace(describe(net), resolution=resolution.to_dict())
    if isinstance(net, PatchPooling):
        return replace(describe(net.net), pooling=net.to_dict())
    inner = net.net if isinstance(net, FramesFirst) else net
    source = library_of(inner)
    if source is None:
        raise NotRebuildable(
            f"{type(net).__name__} is neither a timm, a transformers nor a torchvision model, so a checkpoint of it "
            "could not be loaded elsewhere; build it with timm.create_model or a transformers class"
        )
    return _LIBRARIES[source].describe(inner)
