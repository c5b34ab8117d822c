"""Where DARC's map comes from: a head, Grad-CAM, the class token's attention, or an attention block of the backbone.

Each source takes images and gives the feature at the site and one map ``(B, 1, h, w)`` in [0, 1] an image, inside the
graph: with a head the map's gradient reaches the head's parameters, without one those of the backbone. The head's map
and Grad-CAM are also read ``from_output``, off a forward pass already made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...backbones import infer_layout
from ...backbones.adapter import Feature
from ...backbones.contexts import output_hook, quiet
from ...backbones.outputs import feature_of
from ...backbones.trace import image_size_of
from ...layouts import to_grid
from ...maps import normalize, resize
from ...maps._attention_weights import AttentionWeights, probe
from ...maps._conditions import full_precision
from .._masking import grad_cam_at_site, multi_hot, of_labels

if TYPE_CHECKING:
    from ...output import RefinedOutput
    from ...refined import Refined

SOURCES = ("auto", "head", "grad_cam", "class_attention", "block")
# Classes of timm, torchvision and transformers whose output is a feature weighted by an attention of their own.
BLOCKS = (
    "SEModule", "SqueezeExcite", "SqueezeExcitation", "EffectiveSEModule", "EcaModule", "CecaModule", "CbamModule",
    "LightCbamModule", "GatherExcite", "GlobalContext", "CoordAttn", "SimpleCoordAttn", "EfficientLocalAttn",
    "StripAttn", "NonLocalAttn", "BatNonLocalAttn", "RegNetSELayer", "MobileViTSELayer",
)  # fmt: skip


class HeadMap:
    """The head's map; of parts the largest at each location, of a map for each class the mean over the labels'."""

    second_order = False

    def __init__(self, model: Refined):
        if model.head is None:
            raise ValueError("DARC: source='head', and this model has no head; wrap it with head='abn', or 'grad_cam'")

    def __call__(self, model: Refined, pixels: Tensor, labels: Tensor | None) -> tuple[Feature, Tensor]:
        feature = model.backbone.features(pixels)
        return feature, of_labels(model.found_head(), model.found_head()(feature.grid)[1], labels)

    def from_output(self, model: Refined, output: RefinedOutput, labels: Tensor | None) -> Tensor:
        return of_labels(model.found_head(), output.head_maps, labels)


class GradCam:
    """Grad-CAM of the true classes, or of the predicted one without labels, stretched to [0, 1]."""

    def __init__(self, second_order: bool):
        self.second_order = second_order

    def __call__(self, model: Refined, pixels: Tensor, labels: Tensor | None) -> tuple[Feature, Tensor]:
        output = model.run(pixels, compute_aux=False, twice=self.second_order and torch.is_grad_enabled())
        return output.site_feature, self.from_output(model, output, labels)

    def from_output(self, model: Refined, output: RefinedOutput, labels: Tensor | None) -> Tensor:
        if labels is None:
            labels = output.logits.detach().argmax(1)
        positive = multi_hot(labels, output.logits.shape[1])
        (maps,) = grad_cam_at_site(model, output, [positive], self.second_order and torch.is_grad_enabled())
        return normalize(maps, "minmax")


class ClassAttention:
    """The class token's attention in the last layer that reaches the logits, mean over heads, stretched to [0, 1].

    Where no class token is pooled, the mean over the patches' own attention.
    """

    second_order = False

    def __init__(self, model: Refined):
        backbone, site = model.backbone, model.backbone.found_site()
        if site.layout.grid_rank != 2:
            raise ValueError(
                "DARC: source='class_attention' is of images, and this is a model of clips; use source='grad_cam' or a head"
            )
        with quiet(backbone.net):
            self.row, live = probe(backbone.net, backbone.example(), "auto")
        self.layer = max(layer for layer, is_live in enumerate(live) if is_live)
        if site.layout.format != "NLC":
            raise ValueError(
                f"DARC: source='class_attention' needs a site with tokens, and {site.name!r} is a grid; use "
                "source='grad_cam' or a head"
            )

    def __call__(self, model: Refined, pixels: Tensor, labels: Tensor | None) -> tuple[Feature, Tensor]:
        layers: list[Tensor] = []
        with AttentionWeights(len(pixels), layers.append):
            feature = model.backbone.features(pixels)
            if len(layers) <= self.layer:  # the layer comes after the site
                model.backbone.resume(feature)
        layout = model.backbone.found_site().layout
        attention = full_precision(layers[self.layer]).mean(1)
        by_class = self.row == "class" or attention.shape[1] == 1
        row = attention[:, 0] if by_class else attention[:, layout.prefix :].mean(1)
        return feature, normalize(to_grid(row[..., None], layout, image_size_of(pixels)), "minmax")


class BlockMap:
    """What an attention block of the backbone lets through: its output summed over channels, stretched to [0, 1].

    Squeeze-and-excitation weighs channels and has no map of its own; with weights ``s`` and feature ``f`` the sum is
    ``sum_k s_k f_k``. Of CBAM and its kin the spatial weights are in it too.
    """

    second_order = False

    def __init__(self, model: Refined, block: str):
        backbone = model.backbone
        self.name = _last_block(backbone.net) if block == "auto" else block
        if self.name not in dict(backbone.net.named_modules()):
            raise ValueError(f"DARC: block={block!r} is no module of the backbone; name one, or 'auto' for the last")
        with torch.no_grad(), quiet(backbone.net):
            _, outputs = self._run(backbone, backbone.example())
        if not outputs or infer_layout(outputs[0], tuple(backbone.input_size[1:])) is None:
            problem = f"returns {tuple(outputs[0].shape)}, no grid" if outputs else "does not run before the site"
            raise ValueError(
                f"DARC: block={self.name!r} {problem}; name an attention block before {backbone.found_site().name!r}"
            )

    def __call__(self, model: Refined, pixels: Tensor, labels: Tensor | None) -> tuple[Feature, Tensor]:
        feature, outputs = self._run(model.backbone, pixels)
        size = image_size_of(pixels)
        layout = infer_layout(outputs[0], size)
        assert layout is not None, "asked of an example at the start"
        grid = to_grid(outputs[0], layout, size)
        return feature, normalize(full_precision(grid).sum(1, keepdim=True), "minmax")

    def _run(self, backbone: Any, pixels: Tensor) -> tuple[Feature, list[Tensor]]:
        outputs: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple, output: object) -> None:
            outputs.append(feature_of(output).clone())  # what follows may be in place

        with output_hook(backbone.net.get_submodule(self.name), keep):
            return backbone.features(pixels), outputs


Source = HeadMap | GradCam | ClassAttention | BlockMap
FromOutput = (HeadMap, GradCam)  # sources that also read the map off the task's own pass


def make_source(model: Refined, source: str, block: str, second_order: bool) -> Source:
    """The source of that name; ``"auto"`` is the head where there is one, else Grad-CAM."""
    if source == "head" or source == "auto" and model.head is not None:
        return HeadMap(model)
    if source in ("auto", "grad_cam"):
        return GradCam(second_order)
    return ClassAttention(model) if source == "class_attention" else BlockMap(model, block)


def on_grid(maps: Tensor, feature: Tensor) -> Tensor:
    """A map at the resolution of a feature."""
    return resize(maps, tuple(feature.shape[2:]))


def _last_block(net: nn.Module) -> str:
    found = [name for name, module in net.named_modules() if type(module).__name__ in BLOCKS]
    if not found:
        raise ValueError(
            f"DARC: source='block', and {type(net).__name__} has no attention block that is known by its class; name "
            "one by block=..., or use source='grad_cam'"
        )
    return found[-1]
