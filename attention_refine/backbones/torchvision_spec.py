"""What rebuilds a torchvision model: the registered name whose network is built of the same modules."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from .spec import IMAGENET, BackboneSpec, NotRebuildable


def describe(net: nn.Module) -> BackboneSpec:
    """torchvision's models do not know their names: the one is taken whose modules, options and shapes are the same."""
    from torchvision.models import get_model_builder, list_models

    classes = classes_of(net)
    for name in list_models():
        if get_model_builder(name).__module__ == type(net).__module__ and _same(net, name, classes):
            return BackboneSpec("torchvision", name, {"num_classes": classes}, name, _preprocessing(name))
    raise NotRebuildable(
        f"this {type(net).__name__} is none that torchvision.models.get_model builds from a name and a number of "
        "classes; change nothing but that number, or take the model from timm"
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with fresh weights."""
    import torchvision

    if spec.name not in torchvision.models.list_models():
        raise ValueError(f"{spec.name!r} is not a model of torchvision {torchvision.__version__}; upgrade torchvision")
    if set(spec.args) != {"num_classes"}:
        raise ValueError(
            f"a torchvision backbone takes num_classes and nothing else, not {', '.join(sorted(spec.args))}"
        )
    return _build(spec.name, spec.args["num_classes"])


def _build(name: str, classes: int) -> nn.Module:
    from torchvision.models import get_model, get_model_builder

    takes = inspect.signature(get_model_builder(name)).parameters
    quick = {"init_weights": False} if "init_weights" in takes else {}  # else GoogLeNet warns and takes a minute
    return get_model(name, weights=None, num_classes=classes, **quick).eval()


def _same(net: nn.Module, name: str, classes: int) -> bool:
    try:
        with torch.device("meta"):
            other = _build(name, classes)
    except (TypeError, ValueError):
        return False
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    return repr(other) == repr(net) and shapes == {key: value.shape for key, value in other.state_dict().items()}


def classes_of(net: nn.Module) -> int:
    """Outputs of the last layer that has any: a linear one, or the 1x1 convolution of SqueezeNet."""
    sizes = [getattr(m, "out_features", getattr(m, "out_channels", None)) for m in net.modules()]
    return [size for size in sizes if size is not None][-1]


def _preprocessing(name: str) -> dict[str, Any]:
    """As the default weights of that name were trained, or ImageNet's usual numbers."""
    from torchvision.models import get_model_weights

    transforms = get_model_weights(name).DEFAULT.transforms()
    crop, resize = transforms.crop_size, transforms.resize_size
    height, width = (crop[0], crop[-1])
    video = type(transforms).__name__ == "VideoClassification"
    return {
        "input_size": [3, *([16] if video else []), height, width],
        "mean": list(getattr(transforms, "mean", IMAGENET["mean"])),
        "std": list(getattr(transforms, "std", IMAGENET["std"])),
        "interpolation": "bicubic" if "bicubic" in str(transforms.interpolation).lower() else "bilinear",
        "crop_pct": min(1.0, height / resize[0]),
    }
