"""Folders with tiny networks that read text, with fresh weights, as transformers would save them; no network needed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

WORDS = ("a", "bird", "cat", "dog", "circle", "triangle", "square", "star", "cross", "ring")
LONGEST = 16
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


def write(folder: Path, kind: str, seed: int = 0) -> Path:
    """A model of ``kind`` (a model type) with its processor."""
    torch.manual_seed(seed)
    processor, net = BUILT[kind](folder.parent / f"{folder.name}-words")
    processor.save_pretrained(folder)
    net.save_pretrained(folder)
    return folder


def _clip_words(folder: Path) -> transformers.CLIPTokenizer:
    """Letters, alone and at the end of a word."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer.from_pretrained(folder)


def _text(words: transformers.CLIPTokenizer) -> dict:
    return {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": LONGEST, "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
    }  # fmt: skip


def _clipseg(folder: Path):
    words = _clip_words(folder)
    config = transformers.CLIPSegConfig(
        text_config=_text(words), vision_config=VISION, projection_dim=16, extract_layers=[0, 1], reduce_dim=8,
        decoder_num_attention_heads=2, decoder_intermediate_size=16, use_complex_transposed_convolution=False,
    )  # fmt: skip
    images = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    net = transformers.CLIPSegForImageSegmentation(config)
    torch.nn.init.normal_(net.decoder.transposed_convolution.weight, std=2.0)  # a fresh one finds nothing anywhere
    return transformers.CLIPSegProcessor(images, words), net


def _owl(name: str):
    def built(folder: Path):
        words = _clip_words(folder)
        config = getattr(transformers, f"{name}Config")(
            text_config=_text(words), vision_config=VISION, projection_dim=32
        )
        images = getattr(transformers, f"{name}ImageProcessor")(size={"height": 32, "width": 32})
        net = getattr(transformers, f"{name}ForObjectDetection")(config)
        for part in (net.class_head.logit_scale, net.class_head.logit_shift):  # a fresh one is sure of all, or of none
            torch.nn.init.zeros_(part.weight)
        torch.nn.init.normal_(net.box_head.dense2.weight, std=0.01)  # and its boxes have no area
        return getattr(transformers, f"{name}Processor")(images, words), net

    return built


def _grounding_dino(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    words = transformers.BertTokenizer.from_pretrained(folder)
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(
            image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config={
            "model_type": "bert", "vocab_size": len(vocabulary), "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
        },
        d_model=32, num_queries=9, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_text_len=LONGEST,
        num_feature_levels=3,
    )  # fmt: skip
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    return transformers.GroundingDinoProcessor(images, words), transformers.GroundingDinoForObjectDetection(config)


def _clip(folder: Path):
    words = _clip_words(folder)
    config = transformers.CLIPConfig(text_config=_text(words), vision_config=VISION, projection_dim=16)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    return transformers.CLIPProcessor(images, words), transformers.CLIPModel(config)


def _siglip(folder: Path):
    words = _clip_words(folder)
    config = transformers.SiglipConfig(text_config=_text(words), vision_config=VISION)
    images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    return _Both(images, words), transformers.SiglipModel(config)


class _Both:
    """An image processor and a tokenizer that lie in one folder."""

    def __init__(self, *parts):
        self.parts = parts

    def save_pretrained(self, folder: Path) -> None:
        for part in self.parts:
            part.save_pretrained(folder)


def _align(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    words = transformers.BertTokenizer.from_pretrained(folder, model_max_length=LONGEST)
    config = transformers.AlignConfig(
        text_config={
            "vocab_size": len(vocabulary), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": LONGEST,
        },
        vision_config={"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 80},
        projection_dim=80,
    )  # fmt: skip
    images = transformers.EfficientNetImageProcessor(size={"height": 64, "width": 64})
    net = transformers.AlignModel(config)
    for name, parameter in net.named_parameters():  # fresh ones this thin say the same of all
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
        elif name.startswith("text"):
            torch.nn.init.normal_(parameter, std=0.3)
    return _Both(images, words), net


def _sam(folder: Path):
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
            "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 64, "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32, "iou_head_depth": 2,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    images = transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    net = transformers.SamModel(config)
    for mlp in net.mask_decoder.output_hypernetworks_mlps:  # a fresh one is sure of nothing
        torch.nn.init.normal_(mlp.proj_out.weight, std=1000.0)
    return transformers.SamProcessor(images), net


ZERO_SHOT = {"clip": _clip, "siglip": _siglip, "align": _align}
BUILT = {
    **ZERO_SHOT,
    "sam": _sam,
    "clipseg": _clipseg,
    "owlvit": _owl("OwlViT"),
    "owlv2": _owl("Owlv2"),
    "grounding-dino": _grounding_dino,
}
