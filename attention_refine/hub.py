"""Save and load: ``config.json`` rebuilds the model, ``model.safetensors`` fills it. No pickle, no code from a repo."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from .backbones.adapter import Backbone
from .backbones.sites import Site
from .backbones.spec import BackboneSpec
from .heads.base import heads
from .model import RefinedModel
from .objectives.base import objectives

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1
_REQUIRED = ("model_type", "format", "backbone", "site", "head", "objectives", "labels", "preprocessing")


class CheckpointError(ValueError):
    """A folder or repo that is no whole checkpoint of this library; the message names the file and what is wrong."""


def model_config(model: RefinedModel) -> dict[str, Any]:
    """Everything that rebuilds ``model`` but its weights.

    Raises:
        NotRebuildable: the backbone is a module that neither timm nor transformers can build again.
    """
    from . import __version__

    spec = model.backbone.spec
    if spec is None:
        from .backbones.spec import describe

        describe(model.backbone.net)  # raises, saying why
    return {
        "model_type": "attention_refine",
        "format": FORMAT,
        "library_version": __version__,
        "backbone": spec.to_dict(),
        "site": model.backbone.site.to_dict() if model.backbone.site else None,
        "head": model.head.to_dict() if model.head is not None else None,
        "objectives": [objective.to_dict() for objective in model.objectives.values()],
        "labels": model.labels,
        "preprocessing": model.preprocessing,
    }


def save_pretrained(model: RefinedModel, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``, each whole or not at all.

    Weights first, so a folder with a config always has the weights it speaks of. Other files there are left alone.
    """
    folder = Path(folder)
    config = json.dumps(model_config(model), indent=2, sort_keys=True)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().contiguous().cpu() for key, value in model.state_dict().items()}
    with atomic_file(folder / WEIGHTS) as path:
        save_file(_without_aliases(state), path, metadata={"format": "pt"})
    with atomic_file(folder / CONFIG) as path:
        path.write_text(config + "\n")


def _without_aliases(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that share memory (tied weights) as copies: the file then needs no knowledge of the tie."""
    seen: set[int] = set()
    out = {}
    for key, value in state.items():
        pointer = value.untyped_storage().data_ptr()
        out[key] = value.clone() if pointer in seen else value
        seen.add(pointer)
    return out


class atomic_file:
    """A path to write to that takes its place only when the block ends well, and is gone when it does not."""

    def __init__(self, target: Path):
        self.target = target

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(dir=self.target.parent, prefix=f".{self.target.name}.")
        os.close(handle)
        self.path = Path(name)
        return self.path

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self.path.unlink(missing_ok=True)
            return
        with open(self.path, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(self.path, 0o644)  # mkstemp makes it private
        os.replace(self.path, self.target)


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    device: str | torch.device | None = None,
) -> RefinedModel:
    """The model that :func:`save_pretrained` wrote, in evaluation mode.

    Args:
        source: a folder, or a Hub id, ``"user/name"`` or ``"user/name@revision"``.
        revision, token, cache_dir, local_files_only: as in ``huggingface_hub``.
        device: where to put it; the CPU by default.

    Raises:
        CheckpointError: a file is missing, cut short, or does not belong to the config.
    """
    folder = _folder(source, revision, token, cache_dir, local_files_only)
    config = read_config(folder)
    model = build(config)
    _load_weights(model, folder / WEIGHTS)
    model.eval()
    return model.to(device) if device is not None else model


load = from_pretrained


def _folder(source, revision, token, cache_dir, local_files_only) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    name = str(source)
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise CheckpointError(f"{name!r} is neither a folder nor a Hub id (user/name)")
    from huggingface_hub import snapshot_download

    if "@" in name:
        name, at = name.split("@", 1)
        if revision not in (None, at):
            raise CheckpointError(f"two revisions are given: {at!r} in the id and revision={revision!r}")
        revision = at
    return Path(
        snapshot_download(
            name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
            allow_patterns=[CONFIG, WEIGHTS, "README.md"], library_name="attention_refine",
        )
    )  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a checkpoint folder, checked for what every config has."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}: it is no saved model")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); it was cut short or edited") from error
    if not isinstance(config, dict) or config.get("model_type") != "attention_refine":
        found = (
            config.get("model_type") or config.get("architecture")
            if isinstance(config, dict)
            else type(config).__name__
        )
        raise CheckpointError(
            f"{path} describes {found!r}, not a refined model; wrap it first: ar.wrap({str(folder)!r}, head=...)"
        )
    missing = [key for key in _REQUIRED if key not in config]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    if config["format"] > FORMAT:
        raise CheckpointError(
            f"{path} is of format {config['format']}, newer than this version reads ({FORMAT}); upgrade attention-refine"
        )
    return config


def build(config: dict[str, Any]) -> RefinedModel:
    """The model a config describes, with fresh weights and without probing."""
    spec = BackboneSpec.from_dict(config["backbone"])
    site = Site.from_dict(config["site"]) if config["site"] else None
    backbone = Backbone(spec.build(), spec, site)
    head = heads.build(config["head"]["name"], config["head"]["options"]) if config["head"] else None
    made = [objectives.build(entry["name"], entry["options"]) for entry in config["objectives"]]
    model = RefinedModel(backbone, head, made, config["labels"], config["preprocessing"])
    if head is not None:
        head.attach(backbone, model.num_labels, config["head"]["resolved"])
    for objective in made:
        objective.attach(model)
    return model


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}: the checkpoint is not whole")
    try:
        with safe_open(path, "pt") as header:
            shapes = {key: tuple(header.get_slice(key).get_shape()) for key in header.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); copy or download it again") from error
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for problem, keys in (
        ("lacks", wanted.keys() - shapes.keys()),
        ("has no place for", shapes.keys() - wanted.keys()),
        ("has another shape for", {key for key in wanted.keys() & shapes.keys() if wanted[key] != shapes[key]}),
    ):
        if keys:
            raise CheckpointError(
                f"{path} {problem} {len(keys)} of the model's tensors ({sorted(keys)[0]} first); it is not this config's"
            )
    model.load_state_dict(load_file(path), strict=True)
