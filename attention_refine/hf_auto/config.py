"""The config of a refined model, as transformers wants one."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PretrainedConfig


class RefinedConfig(PretrainedConfig):
    """``config.json`` of a refined model, with the label names where transformers looks for them."""

    model_type = "attention_refine"
    keys_to_ignore_at_inference = ["maps", "aux_logits", "losses", "measures", "map_scores", "carried"]

    def __init__(self, labels: list[str] | None = None, preprocessing: dict[str, Any] | None = None, **options: Any):
        names = labels or ["0", "1"]
        options.setdefault("id2label", dict(enumerate(names)))
        options.setdefault("label2id", {name: index for index, name in enumerate(names)})
        super().__init__(**options)
        self.labels = names
        self.preprocessing = preprocessing
        size = (preprocessing or {}).get("input_size", ())
        if len(size) == 4:
            self.num_frames = size[1]  # transformers' video pipeline asks for it


def register() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    AutoConfig.register("attention_refine", RefinedConfig, exist_ok=True)
