"""A network of transformers that compares an image with texts (CLIP, SigLIP …), as a classifier whose classes are the texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .fetching import Kind, fetched
from .transformers_spec import preprocessing_of

KINDS = {
    "align": Kind("AlignModel", "kakaobrain/align-base"),
    "altclip": Kind("AltCLIPModel", "BAAI/AltCLIP"),
    "clip": Kind("CLIPModel", "openai/clip-vit-base-patch32"),
    "metaclip_2": Kind("MetaClip2Model", "facebook/metaclip-2-worldwide-s16"),
    "siglip": Kind("SiglipModel", "google/siglip-base-patch16-224"),
}


class ZeroShotClassifier(nn.Module):
    """``pixel_values (B, 3, H, W) -> logits (B, texts)``: the scaled cosine of image and text, as the network was trained.

    The texts are encoded once; only what looks at the image runs then.

    Args:
        net: a network of :data:`KINDS`.
        tokenizer: its own.
        texts: what the image is compared with.

    Raises:
        ValueError: a text that is longer than the network reads.
    """

    texts: Tensor

    def __init__(self, net: Any, tokenizer: Any, texts: Sequence[str]):
        super().__init__()
        self.net: Any = net
        self.tokenizer = tokenizer
        self.num_classes = len(texts)
        self.register_buffer("texts", self._encoded(list(texts)))

    def of(self, texts: Sequence[str]) -> ZeroShotClassifier:
        """The same network, its weights shared, with other texts for classes."""
        return ZeroShotClassifier(self.net, self.tokenizer, texts).train(self.training)

    def forward(self, pixel_values: Tensor) -> Tensor:
        images = nn.functional.normalize(self.net.get_image_features(pixel_values).pooler_output, dim=-1)
        similarity = images @ self.texts.to(images.dtype).T
        if hasattr(self.net, "temperature"):  # ALIGN
            return similarity / self.net.temperature
        return similarity * self.net.logit_scale.exp() + getattr(self.net, "logit_bias", 0.0)

    @torch.no_grad()
    def _encoded(self, texts: list[str]) -> Tensor:
        longest = self.net.config.text_config.max_position_embeddings
        longest = min(longest, self.tokenizer.model_max_length)
        for text in texts:
            length = len(self.tokenizer(text)["input_ids"])
            if length > longest:
                kind = self.net.config.model_type
                raise ValueError(
                    f"the text {text!r} is {length} tokens long and this {kind} model reads {longest}: shorten it"
                )
        # SigLIP reads what it was trained on, texts filled up to the longest; the others leave out what fills up
        fill = {"padding": "max_length", "max_length": longest} if self.net.config.model_type == "siglip" else {}
        words = self.tokenizer(texts, return_tensors="pt", **({"padding": True} | fill))
        device = next(self.net.parameters()).device
        known = {name: words[name].to(device) for name in ("input_ids", "attention_mask") if name in words}
        return nn.functional.normalize(self.net.get_text_features(**known).pooler_output, dim=-1)


def load_zero_shot(
    name: str | Path, texts: Sequence[str], revision: str | None = None
) -> tuple[ZeroShotClassifier, dict[str, Any]]:
    """The classifier in evaluation mode, and the preprocessing of its images; safetensors alone, and no code.

    Args:
        name: an id on the Hub, or a folder.
        texts: the classes.
        revision: a branch, tag or commit of the Hub's.

    Raises:
        ValueError: a network of another kind, weights that lack some of it, or a text that is too long.
        OSError: it cannot be fetched, or has no safetensors.
    """
    found = fetched(name, revision, KINDS, "compares images with texts", inputs="AutoTokenizer")
    return ZeroShotClassifier(found.net, found.inputs, texts).eval(), preprocessing_of(found.net, str(name))
