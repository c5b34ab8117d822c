"""Networks of transformers that find in an image what a text names: a map of it (CLIPSeg), or boxes (OWL, Grounding DINO),
which another (SAM) cuts out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .fetching import Fetched, Kind, fetched
from .transformers_spec import config_of

SAME_OBJECT = 0.5  # IoU from which of two boxes the less sure one is dropped: OWL gives an object many


@dataclass(frozen=True)
class FindingKind(Kind):
    """What it finds, and from which score by default."""

    finds: str  # "maps" or "boxes"
    threshold: float  # that of the processor's post-processing, where it has one


KINDS = {
    "clipseg": FindingKind("CLIPSegForImageSegmentation", "CIDAS/clipseg-rd64-refined", "maps", 0.5),
    "owlvit": FindingKind("OwlViTForObjectDetection", "google/owlvit-base-patch32", "boxes", 0.1),
    "owlv2": FindingKind("Owlv2ForObjectDetection", "google/owlv2-base-patch16-ensemble", "boxes", 0.1),
    "grounding-dino": FindingKind(
        "GroundingDinoForObjectDetection", "IDEA-Research/grounding-dino-tiny", "boxes", 0.25
    ),
}
SEGMENTERS = {"sam": FindingKind("SamModel", "facebook/sam-vit-base", "maps", 0.5)}  # they take boxes, and read no text


class WordModel:
    """A network of :data:`KINDS` with its processor: images and a text for each in, maps or boxes out."""

    def __init__(self, found: Fetched, device: torch.device):
        self.net, self.processor, self.commit, self.device = found.net.to(device), found.inputs, found.commit, device
        self.config = config_of(found.net)
        self.kind = KINDS[self.config.model_type]

    @property
    def facts(self) -> str:
        """All but the weights that decides what is found: text, equal for equal settings."""
        settings = self.processor.image_processor.to_dict()
        return json.dumps([self.config.model_type, self.commit, settings], sort_keys=True, default=str)

    def tokens(self, text: str) -> list[int]:
        """The numbers that the network reads in place of a text.

        Raises:
            ValueError: it is longer than the network reads.
        """
        found = self.processor.tokenizer(self._as_read(text))["input_ids"]
        if len(found) > self._longest:
            raise ValueError(
                f"the text {text!r} is {len(found)} tokens long and a {self.config.model_type} model reads "
                f"{self._longest}: shorten it"
            )
        return found

    @torch.no_grad()
    def find(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[np.ndarray]:
        """What each text names in its image.

        Args:
            images: upright RGB.
            texts: one an image.

        Returns:
            For each image a map, ``(h, w)`` float16 in [0, 1] over the whole of it, or its boxes ``(n, 5)`` float32: left,
            top, right, bottom in its pixels, within it, and the score; the surest first.
        """
        read = [dict(self.processor.image_processor(images=image, return_tensors="pt")) for image in images]
        alike: dict[tuple, list[int]] = {}  # never padded to another's size, so that a batch gives what one gives
        for i, (values, text) in enumerate(zip(read, texts, strict=True)):
            alike.setdefault((values["pixel_values"].shape, len(self.tokens(text))), []).append(i)
        found: list[np.ndarray] = [np.empty(0)] * len(images)
        for group in alike.values():
            inputs = {key: torch.cat([read[i][key] for i in group]) for key in read[group[0]]}
            inputs |= dict(self._text_inputs([texts[i] for i in group]))
            inputs = {key: value.to(self.device) for key, value in inputs.items()}
            outputs = self.net(**inputs)
            if self.kind.finds == "maps":
                these = self._maps(outputs)
            else:
                these = self._boxes(inputs, outputs, [images[i].size[::-1] for i in group])
            for i, one in zip(group, these, strict=True):
                found[i] = one
        return found

    @property
    def _longest(self) -> int:
        return getattr(self.config, "max_text_len", None) or self.config.text_config.max_position_embeddings

    def _as_read(self, text: str) -> str:
        if self.config.model_type == "grounding-dino":  # in small letters, phrases end in a full stop
            return text.strip().lower().rstrip(".") + "."
        return text

    def _text_inputs(self, texts: list[str]) -> Any:
        if self.config.model_type == "grounding-dino":  # these are equally long
            given = [self._as_read(text) for text in texts]
            return self.processor.tokenizer(given, return_tensors="pt", return_token_type_ids=True)
        return self.processor.tokenizer(texts, padding="max_length", max_length=self._longest, return_tensors="pt")

    def _maps(self, outputs: Any) -> list[np.ndarray]:
        logits = outputs.logits.float()
        return list(logits.reshape(-1, *logits.shape[-2:]).sigmoid().cpu().half().numpy())

    def _boxes(self, inputs: dict[str, Tensor], outputs: Any, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
        more: dict[str, Any] = {}
        if self.config.model_type == "grounding-dino":
            more = {"input_ids": inputs["input_ids"], "text_threshold": 1.0}  # the words of a box are not asked for
        made = self.processor.post_process_grounded_object_detection(
            outputs, threshold=0.0, target_sizes=torch.tensor(sizes), **more
        )
        return [
            _kept(each["boxes"].float().cpu(), each["scores"].float().cpu(), size) for each, size in zip(made, sizes)
        ]


class CutOut:
    """A network that finds boxes, and one that cuts out what is in them: together they find maps, as a :class:`WordModel`.

    Args:
        finder: finds boxes.
        level: the score from which a box is cut out.
        segmenter: a network of :data:`SEGMENTERS`.
    """

    kind = SEGMENTERS["sam"]

    def __init__(self, finder: WordModel, level: float, segmenter: Fetched):
        self.finder, self.level, self.processor, self.commit = finder, level, segmenter.inputs, segmenter.commit
        self.segmenter = segmenter.net.to(finder.device)
        self.net = nn.ModuleList([finder.net, self.segmenter])
        self.tokens = finder.tokens

    @property
    def facts(self) -> str:
        """As of a :class:`WordModel`."""
        settings = self.processor.image_processor.to_dict()
        return json.dumps([self.finder.facts, self.level, self.commit, settings], sort_keys=True, default=str)

    @torch.no_grad()
    def find(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[np.ndarray]:
        """Of each image a map, ``(h, w)`` float16: how probably a pixel belongs to what one of the boxes holds."""
        found = self.finder.find(images, texts)
        return [
            self._cut(image, boxes[boxes[:, 4] >= np.float32(self.level), :4]) for image, boxes in zip(images, found)
        ]

    def _cut(self, image: Image.Image, boxes: np.ndarray) -> np.ndarray:
        if not len(boxes):
            return np.zeros((1, 1), np.float16)
        given = self.processor(images=image, input_boxes=[boxes.tolist()], return_tensors="pt")
        device = self.finder.device
        outputs = self.segmenter(
            pixel_values=given["pixel_values"].to(device), input_boxes=given["input_boxes"].float().to(device),
            multimask_output=False,
        )  # fmt: skip
        (logits,) = self.processor.image_processor.post_process_masks(
            outputs.pred_masks.cpu(), given["original_sizes"], given["reshaped_input_sizes"], binarize=False
        )
        return logits[:, 0].amax(0).sigmoid().half().numpy()


def _kept(boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Boxes within the image and larger than a pixel, one an object."""
    import torchvision

    height, width = size
    boxes = torch.minimum(boxes.clamp_min(0), torch.tensor([width, height, width, height], dtype=boxes.dtype))
    large = ((boxes[:, 2:] - boxes[:, :2]) > 1).all(1)
    boxes, scores = boxes[large], scores[large]
    kept = torchvision.ops.nms(boxes, scores, SAME_OBJECT)
    return torch.cat([boxes, scores[:, None]], 1)[kept].numpy()


def load_word_model(
    name: str | Path, revision: str | None = None, device: str | torch.device | None = None
) -> WordModel:
    """A network of :data:`KINDS` with its processor, both of one commit; weights from safetensors alone, and no code.

    Args:
        name: an id on the Hub, or a folder.
        revision: a branch, tag or commit of the Hub's.
        device: by default a GPU where there is one.

    Raises:
        ValueError: a network of another kind, or weights that lack some of it.
        OSError: it cannot be fetched, or has no safetensors.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    found = fetched(name, revision, KINDS, "finds what a text names")
    if getattr(found.inputs.image_processor, "do_center_crop", False):
        raise ValueError(
            f"the image processor of {name!r} cuts the images' margins off (do_center_crop), and what is found would lie "
            "elsewhere: set do_center_crop to false in its preprocessor_config.json"
        )
    return WordModel(found, device)


def cut_out(finder: WordModel, level: float, name: str | Path, revision: str | None = None) -> CutOut:
    """The finder with a network of :data:`SEGMENTERS` behind it, loaded as by :func:`load_word_model`, with its errors.

    Raises:
        ValueError: a finder that makes maps by itself.
    """
    if finder.kind.finds != "boxes":
        raise ValueError(
            f"a segmenter cuts out what is in boxes, and a {finder.config.model_type} model makes masks itself: leave it "
            "out"
        )
    return CutOut(finder, level, fetched(name, revision, SEGMENTERS, "cuts out what is in a box"))
