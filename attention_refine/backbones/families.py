"""One small network of every family: what the support table and the full sweep run.

timm: one model for each of its modules, with the size of image it is run at and, where the smallest is not small, fewer
or narrower layers. transformers: one tiny config for each type with an image classifier that needs nothing but pixels
and installed packages (left out: ``dinat``, which needs natten; ``imagegpt``, which reads colour tokens; ``perceiver``,
whose latents have no grid; ``siglip2``, which reads patches cut beforehand; ``shieldgemma2``, a language model).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .calibrate import liven

CLASSES = 5
_VIT = dict(img_size=64, depth=4, embed_dim=48, num_heads=3)

# module: model, arguments, side of the image (None: the model's own)
TIMM: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "beit": ("beit_base_patch16_224", _VIT, 64),
    "byoanet": ("eca_botnext26ts_256", dict(img_size=96), 96),
    "byobnet": ("test_byobnet", {}, 64),
    "cait": ("cait_xxs24_224", _VIT, 64),
    "coat": ("coat_tiny", dict(img_size=64), 64),
    "convit": ("convit_tiny", dict(img_size=64, depth=6, embed_dim=12), 64),
    "convmixer": ("convmixer_1024_20_ks9_p14", {}, 56),
    "convnext": ("convnext_atto", {}, 96),
    "cpubone": ("cpubone_nano", {}, 96),
    "crossvit": ("crossvit_tiny_240", {}, 240),
    "csatv2": ("csatv2", {}, 128),
    "cspnet": ("cs3darknet_focus_s", {}, 96),
    "cspnext": ("cspnext_tiny", {}, 96),
    "davit": ("davit_tiny", dict(depths=(1, 1, 1, 1), embed_dims=(24, 48, 96, 192), num_heads=(3, 3, 3, 3)), 112),
    "deepseek_vit": ("deepseek_vit_412m", dict(depth=4, embed_dim=64, num_heads=4), None),
    "deit": ("deit_tiny_patch16_224", _VIT, 64),
    "densenet": ("densenet121", {}, 64),
    "dla": ("dla34", {}, 64),
    "dpn": ("dpn48b", {}, 64),
    "edgenext": ("edgenext_xx_small", {}, 96),
    "efficientformer": ("efficientformer_l1", {}, 224),
    "efficientformer_v2": ("efficientformerv2_s0", dict(img_size=96), 96),
    "efficientnet": ("test_efficientnet", {}, 64),
    "efficientvim": ("efficientvim_m1", {}, 128),
    "efficientvit_mit": ("efficientvit_b0", {}, 96),
    "efficientvit_msra": ("efficientvit_m0", dict(img_size=128), 128),
    "eva": ("eva02_tiny_patch14_224", dict(img_size=56, depth=4), 56),
    "fasternet": ("fasternet_t0", {}, 96),
    "fastvit": ("fastvit_t8", {}, 96),
    "focalnet": ("focalnet_tiny_srf", {}, 96),
    "gcvit": ("gcvit_xxtiny", {}, 224),
    "gemma4_vit": ("gemma4_vit_167m", dict(depth=4, embed_dim=96, num_heads=4, img_size=192), 192),
    "ghostnet": ("ghostnet_050", {}, 96),
    "hardcorenas": ("hardcorenas_b", {}, 96),
    "hgnet": ("hgnetv2_b0", {}, 96),
    "hiera": ("hiera_tiny_224", dict(img_size=128, embed_dim=24), 128),
    "hieradet_sam2": ("sam2_hiera_tiny", {}, 128),
    "hrnet": ("hrnet_w18_small", {}, 96),
    "iformer": ("iformer_t", {}, 96),
    "inception_next": ("inception_next_atto", {}, 96),
    "inception_resnet_v2": ("inception_resnet_v2", {}, 128),
    "inception_v3": ("inception_v3", {}, 128),
    "inception_v4": ("inception_v4", {}, 128),
    "lcnetv2": ("lcnetv2_small", {}, 96),
    "levit": ("levit_128s", dict(img_size=128), 128),
    "lowformer": ("lowformer_b0", {}, 96),
    "mambaout": ("mambaout_femto", {}, 96),
    "maxxvit": ("test_maxvit", {}, 160),
    "metaformer": ("poolformerv2_s12", {}, 96),
    "mlp_mixer": ("gmlp_ti16_224", dict(img_size=64), 64),
    "mobilenetv3": ("mobilenetv3_small_050", {}, 96),
    "mobilenetv5": ("mobilenetv5_base", {}, 256),
    "mobilevit": ("mobilevit_xxs", {}, 96),
    "mvitv2": ("mvitv2_tiny", dict(img_size=96), 96),
    "naflexvit": ("naflexvit_base_patch16_parfac_gap", dict(depth=4, embed_dim=96, num_heads=4), 96),
    "nasnet": ("nasnetalarge", {}, 96),
    "nest": ("nest_tiny", dict(img_size=128), 128),
    "nextvit": ("nextvit_small", {}, 96),
    "nfnet": ("nf_regnet_b0", {}, 96),
    "pit": ("pit_ti_224", dict(img_size=96), 96),
    "pnasnet": ("pnasnet5large", {}, 96),
    "pvt_v2": ("pvt_v2_b0", {}, 96),
    "qwen3_vit": ("qwen3_vit_88m", dict(depth=4, embed_dim=96, num_heads=4, img_size=64), 64),
    "rdnet": ("rdnet_tiny", {}, 96),
    "regnet": ("regnetx_002", {}, 96),
    "repghost": ("repghostnet_050", {}, 96),
    "repvit": ("repvit_m0_9", {}, 96),
    "res2net": ("res2net50_26w_4s", {}, 64),
    "resnest": ("resnest26d", {}, 64),
    "resnet": ("test_resnet", {}, 64),
    "resnetv2": ("resnetv2_18", {}, 64),
    "rexnet": ("rexnet_100", {}, 96),
    "selecsls": ("selecsls42", {}, 128),
    "senet": ("legacy_seresnet18", {}, 64),
    "sequencer": ("sequencer2d_s", dict(img_size=112), 112),
    "shvit": ("shvit_s1", {}, 128),
    "sknet": ("skresnet18", {}, 64),
    "starnet": ("starnet_s050", {}, 96),
    "swiftformer": ("swiftformer_xs", dict(img_size=96), 96),
    "swin_transformer": ("swin_tiny_patch4_window7_224", dict(img_size=112, depths=(1, 1, 2, 1), embed_dim=24), 112),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", dict(img_size=128, depths=(1, 1, 2, 1), embed_dim=24), 128),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", dict(img_size=112, depths=(1, 1, 2, 1), embed_dim=24), 112),
    "tiny_vit": ("tiny_vit_5m_224", {}, 128),
    "tnt": ("tnt_s_legacy_patch16_224", dict(img_size=64, depth=4), 64),
    "tresnet": ("tresnet_m", {}, 64),
    "twins": ("twins_svt_small", {}, 224),
    "vgg": ("vgg11", {}, 64),
    "visformer": ("visformer_tiny", dict(img_size=96), 96),
    "vision_transformer": ("test_vit", {}, 160),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", dict(img_size=96, depth=4), 96),
    "vision_transformer_relpos": ("vit_srelpos_small_patch16_224", _VIT, 64),
    "vision_transformer_sam": ("samvit_base_patch16_224", dict(img_size=64, depth=4, embed_dim=48, num_heads=4), 64),
    "vitamin": ("vitamin_small_224", dict(img_size=96), 96),
    "volo": ("volo_d1_224", dict(img_size=96), 96),
    "vovnet": ("ese_vovnet19b_slim_dw", {}, 96),
    "xception": ("legacy_xception", {}, 128),
    "xception_aligned": ("xception41p", {}, 128),
    "xcit": ("xcit_nano_12_p8_224", dict(img_size=64, depth=4), 64),
}

_TOKENS = dict(
    image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64
)
_FOUR = dict(hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 1])
_PYRAMID = dict(image_size=64, num_attention_heads=[1, 1, 2, 2], **_FOUR)
_WINDOWS = dict(image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 2, 4], window_size=4)

# type: config, at images of 64 pixels
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "beit": _TOKENS,
    "bit": dict(embedding_size=8, hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], num_groups=4),
    "clip": dict(vision_config=_TOKENS),
    "convnext": _FOUR,
    "convnextv2": _FOUR,
    "cvt": dict(embed_dim=[8, 16, 32], num_heads=[1, 2, 2], depth=[1, 2, 3]),
    "data2vec-vision": _TOKENS,
    "deit": _TOKENS,
    "dinov2": _TOKENS,
    "dinov2_with_registers": _TOKENS,
    "donut-swin": _WINDOWS,
    "efficientnet": dict(
        width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320, image_size=64, initializer_range=0.2
    ),
    "focalnet": dict(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1],
        focal_levels=[2, 2, 2],
        focal_windows=[3, 3, 3],
        hidden_sizes=[8, 16, 32],
    ),
    "hgnet_v2": dict(
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 128],
        stem_channels=[3, 8, 16],
        stage_in_channels=[16, 16, 32, 64],
        stage_mid_channels=[8, 16, 16, 32],
        stage_out_channels=[16, 32, 64, 128],
        stage_num_blocks=[1, 1, 1, 1],
    ),
    "hiera": dict(
        image_size=[64, 64],
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 4],
        patch_size=[7, 7],
        patch_stride=[4, 4],
    ),
    "ijepa": _TOKENS,
    "levit": dict(
        image_size=64, hidden_sizes=[16, 32, 48], num_attention_heads=[2, 2, 3], depths=[1, 1, 1], key_dim=[8, 8, 8]
    ),
    "metaclip_2": dict(vision_config=_TOKENS),
    "mobilenet_v1": dict(depth_multiplier=0.25, image_size=64),
    "mobilenet_v2": dict(depth_multiplier=0.35, image_size=64),
    "mobilevit": dict(image_size=64, hidden_sizes=[16, 16, 32], neck_hidden_sizes=[8, 8, 16, 16, 32, 32, 64]),
    "mobilevitv2": dict(image_size=64, width_multiplier=0.25, initializer_range=0.2),
    "poolformer": _FOUR,
    "pp_lcnet": dict(scale=0.25),
    "pvt": dict(image_size=64, hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 2], num_attention_heads=[1, 1, 2, 2]),
    "pvt_v2": _PYRAMID,
    "regnet": dict(embedding_size=8, groups_width=8, **_FOUR),
    "resnet": dict(embedding_size=8, layer_type="basic", **_FOUR),
    "segformer": dict(num_attention_heads=[1, 1, 2, 2], **_FOUR),
    "siglip": dict(vision_config=_TOKENS),
    "swiftformer": dict(image_size=64, embed_dims=[8, 16, 32, 32], depths=[1, 1, 1, 1]),
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "textnet": {},
    "timm_wrapper": dict(architecture="test_resnet"),
    "vit": _TOKENS,
    "vit_msn": _TOKENS,
}


@dataclass(frozen=True)
class Example:
    """One network to try.

    Attributes:
        library: ``"timm"`` or ``"transformers"``.
        family: timm's module, or transformers' model type.
        model: the architecture, or the classifier's class.
    """

    library: str
    family: str
    model: str

    def build(self) -> tuple[nn.Module, Tensor]:
        """The network, brought to life as if trained, in evaluation mode, and a batch of four images for it."""
        torch.manual_seed(0)
        net, side = _timm(self.family) if self.library == "timm" else _transformers(self)
        pixel_values = torch.randn(4, 3, side, side)
        return liven(net.eval(), pixel_values), pixel_values


def examples(filter: str = "") -> Iterator[Example]:
    """Every example whose ``library/family`` or model contains ``filter``."""
    found = [Example("timm", family, model) for family, (model, _, _) in TIMM.items()]
    found += [Example("transformers", family, _classifier(family)) for family in TRANSFORMERS]
    return (e for e in found if filter in f"{e.library}/{e.family}" or filter in e.model)


def _timm(family: str) -> tuple[nn.Module, int]:
    import timm

    model, args, side = TIMM[family]
    net = timm.create_model(model, num_classes=CLASSES, **args)
    return net, side or getattr(net, "pretrained_cfg", {})["input_size"][-1]


def _classifier(family: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as names

    name = names[family]
    return name if isinstance(name, str) else name[0]


def _transformers(example: Example) -> tuple[nn.Module, int]:
    import transformers

    config = transformers.AutoConfig.for_model(example.family, num_labels=CLASSES, **TRANSFORMERS[example.family])
    return getattr(transformers, example.model)(config), 64
