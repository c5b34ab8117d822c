"""A refined model as a transformers model, for its pipelines and its Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel

from ..core.model_inputs import name_also, naming_columns
from ..hub import from_pretrained
from ..output import RefinedOutput
from ..refined import Refined
from .config import RefinedConfig

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only")


class RefinedForImageClassification(PreTrainedModel):
    """A :class:`~attention_refine.model.RefinedModel` as a transformers model: ``.refined`` is the model itself.

    One of clips answers to ``AutoModelForVideoClassification`` by the same class.
    """

    config_class = RefinedConfig
    base_model_prefix = "refined"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = True

    def __init__(self, config: RefinedConfig, refined: Refined | None = None):
        super().__init__(config)
        if refined is None:
            raise ValueError("a refined model is made by ar.wrap or read from a checkpoint, not from a config alone")
        self.refined = refined
        for objective in refined.objectives.values():
            name_also(RefinedForImageClassification.forward, getattr(objective, "reads", ()))
        self.register_load_state_dict_pre_hook(_prefixed)

    @classmethod
    def of(cls, model: Refined) -> RefinedForImageClassification:
        """The model in this form; it is not copied."""
        return cls(model.config, model).train(model.training)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # this and the two below: transformers' options that are none here
        cls, source: str | Path, *inputs: Any, config: Any = None, **options: Any
    ) -> PreTrainedModel:
        """What :func:`attention_refine.load` gives, checked as it checks.

        Args:
            options: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``dtype``; what else
                transformers passes along unasked is without effect.

        Raises:
            ValueError: ``device_map`` or quantisation, which this model does not take.
        """
        for name in ("device_map", "quantization_config", "tp_plan"):
            if options.get(name) is not None:
                raise ValueError(f"{name} is not supported for a refined model; load it, then call .to(device)")
        chosen = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
        made = cls.of(from_pretrained(source, **chosen))
        made.config._name_or_path = str(source)
        dtype = options.get("dtype") or options.get("torch_dtype")
        if isinstance(dtype, str) and dtype != "auto":
            dtype = getattr(torch, dtype)
        if isinstance(dtype, torch.dtype):
            made = made.to(dtype)  # type: ignore[arg-type]  # transformers types it as a wrapped function
        loaded = made.eval()
        return (loaded, {}) if options.get("output_loading_info") else loaded

    def save_pretrained(  # type: ignore[override]
        self, folder: str | Path, *inputs: Any, max_shard_size: int | str = "5GB", **options: Any
    ) -> None:
        """A checkpoint of this library's: :func:`attention_refine.hub.save_pretrained`."""
        self.refined.save_pretrained(folder, max_shard_size=max_shard_size)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:  # type: ignore[override]
        return self.refined.push_to_hub(repo_id, **options)

    @naming_columns
    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **columns: Any) -> RefinedOutput:
        for name in ("output_attentions", "output_hidden_states", "return_dict"):
            columns.pop(name, None)
        return self.refined(pixel_values, labels=labels, **columns)

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Weights come from the model that is wrapped."""


def _prefixed(module: torch.nn.Module, state: dict[str, Any], prefix: str, *details: Any) -> None:
    """Weights as a checkpoint names them, which Trainer reads when it resumes, under the names they have here."""
    for key in [key for key in state if key.startswith(prefix) and not key.startswith(f"{prefix}refined.")]:
        state[f"{prefix}refined.{key.removeprefix(prefix)}"] = state.pop(key)


def register() -> None:
    from transformers.models.auto.modeling_auto import AutoModelForImageClassification, AutoModelForVideoClassification

    AutoModelForImageClassification.register(RefinedConfig, RefinedForImageClassification, exist_ok=True)
    AutoModelForVideoClassification.register(RefinedConfig, RefinedForImageClassification, exist_ok=True)
