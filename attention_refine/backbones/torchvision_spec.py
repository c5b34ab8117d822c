"""What rebuilds a torchvision model: the registered name whose network is built of the same modules."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from .narrowing import PUBLISHED, build_narrow, width_of
from .spec import IMAGENET, BackboneSpec, NotRebuildable

# Frames a second that the published weights of video networks were trained at, by the module of the network.
FRAME_RATES = {"resnet": 15, "mvit": 7.5, "swin_transformer": 15, "s3d": 15}


def describe(net: nn.Module) -> BackboneSpec:
    """torchvision's models do not know their names: the one is taken whose modules, options and shapes are the same."""
    from torchvision.models import get_model_builder, list_models

    classes, width = classes_of(net), width_of(net)
    args = {"num_classes": classes, **({} if width in (None, PUBLISHED) else {"width": width})}
    for name in list_models():
        if get_model_builder(name).__module__ == type(net).__module__ and _same(net, name, args):
            return BackboneSpec("torchvision", name, args, name, _preprocessing(name))
    raise NotRebuildable(
        f"this {type(net).__name__} is none that torchvision.models.get_model builds from a name and a number of "
        "classes; change nothing but that number, or take the model from timm"
    )


def build(spec: BackboneSpec) -> nn.Module:
    """The network with fresh weights."""
    import torchvision

    if spec.name not in torchvision.models.list_models():
        raise ValueError(f"{spec.name!r} is not a model of torchvision {torchvision.__version__}; upgrade torchvision")
    if set(spec.args) not in ({"num_classes"}, {"num_classes", "width"}):
        raise ValueError(
            "a torchvision backbone takes num_classes, a video ResNet width as well, and nothing else, not "
            f"{', '.join(sorted(spec.args))}"
        )
    return build_named(spec.name, **spec.args)


def names() -> list[str]:
    """The classifiers of images and videos that torchvision builds from a name."""
    import torchvision
    from torchvision.models import list_models

    return list_models(module=torchvision.models) + list_models(module=torchvision.models.video)


def build_named(name: str, num_classes: int, width: int | None = None) -> nn.Module:
    """The network of that name with fresh weights, in evaluation mode.

    Args:
        width: of a video ResNet; see :mod:`attention_refine.backbones.narrowing`.
    """
    from torchvision.models import get_model, get_model_builder

    if width is not None:
        return build_narrow(name, num_classes, width).eval()
    takes = inspect.signature(get_model_builder(name)).parameters
    quick = {"init_weights": False} if "init_weights" in takes else {}  # else GoogLeNet warns and takes a minute
    return get_model(name, weights=None, num_classes=num_classes, **quick).eval()


def _same(net: nn.Module, name: str, args: dict[str, Any]) -> bool:
    try:
        with torch.device("meta"):
            other = build_named(name, **args)
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
    from torchvision.models import get_model_builder, get_model_weights

    transforms = get_model_weights(name).DEFAULT.transforms()
    crop, resize = transforms.crop_size, transforms.resize_size
    height, width = (crop[0], crop[-1])
    video = type(transforms).__name__ == "VideoClassification"
    rate = FRAME_RATES.get(get_model_builder(name).__module__.rpartition(".")[2]) if video else None
    return {
        **({"fps": rate} if rate else {}),
        "input_size": [3, *([16] if video else []), height, width],
        "mean": list(getattr(transforms, "mean", IMAGENET["mean"])),
        "std": list(getattr(transforms, "std", IMAGENET["std"])),
        "interpolation": "bicubic" if "bicubic" in str(transforms.interpolation).lower() else "bilinear",
        "crop_pct": min(1.0, height / resize[0]),
    }
