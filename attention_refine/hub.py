"""Save and load: ``config.json`` rebuilds the model, ``model.safetensors`` fills it. No pickle, no code from a repo."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from .backbones.adapter import Backbone
from .backbones.loading import num_classes
from .backbones.sites import Site
from .backbones.spec import BackboneSpec, NotRebuildable, describe
from .files import atomic_files
from .heads.base import heads
from .model import RefinedModel
from .objectives.base import objectives

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1
_OPTIONAL = (dict, type(None))
_ENTRIES = {
    "model_type": str,
    "format": int,
    "library_version": str,
    "backbone": dict,
    "site": _OPTIONAL,
    "head": _OPTIONAL,
    "objectives": list,
    "labels": list,
    "preprocessing": dict,
}


class CheckpointError(ValueError):
    """A folder or repo that is no whole checkpoint of this library; the message names the file and what is wrong."""


def model_config(model: RefinedModel) -> dict[str, Any]:
    """Everything that rebuilds ``model`` but its weights.

    Raises:
        NotRebuildable: the backbone is a module that no library can build again, or a head or objective is not
            registered.
    """
    from . import __version__

    for registry, parts in ((heads, [model.head] if model.head else []), (objectives, model.objectives.values())):
        for part in parts:
            if not registry.holds(part):
                raise NotRebuildable(
                    f"{registry.kind} {part.name!r} is not registered, so a checkpoint of it could not be loaded; "
                    f"decorate {type(part).__name__} with ar.register_{registry.kind}({part.name!r})"
                )
    spec = model.backbone.spec or describe(model.backbone.net)  # the latter raises, saying why there is no spec
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
    """Write ``config.json`` and ``model.safetensors`` into ``folder``, both whole or neither.

    They take their places together, once both are on the disk, so that an earlier checkpoint there stays as it was if
    anything goes wrong. Other files in the folder are left alone.

    Raises:
        NotRebuildable: the model could not be loaded again; nothing is written.
    """
    folder = Path(folder)
    config = _as_json(model_config(model))
    state = {key: value.detach().contiguous().cpu() for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    difference = _difference(found, _outline(json.loads(config)))
    if difference:
        raise NotRebuildable(
            f"what the config rebuilds {difference}: a layer was changed after the network was built; change it "
            "by the arguments of timm.create_model, the transformers config or wrap(num_labels=...)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_files(folder / WEIGHTS, folder / CONFIG) as (weights_path, config_path):
        save_file(_without_aliases(state), weights_path, metadata={"format": "pt"})
        config_path.write_text(config + "\n", encoding="utf-8")


def _as_json(config: dict[str, Any]) -> str:
    try:
        return json.dumps(config, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise NotRebuildable(
            f"an option of the model is not plain data ({error}), so config.json cannot hold it; pass plain values"
        ) from error


def _without_aliases(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that share memory (tied weights) as copies: the file then needs no knowledge of the tie."""
    seen: set[int] = set()
    out = {}
    for key, value in state.items():
        pointer = value.untyped_storage().data_ptr()
        out[key] = value.clone() if pointer in seen else value
        seen.add(pointer)
    return out


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
    folder = checkpoint_folder(source, revision, token, cache_dir, local_files_only)
    config = read_config(folder)
    _check_weights(folder, config)
    with _building(folder):
        model = build(config)
    weights = load_file(folder / WEIGHTS)
    for key, value in model.state_dict(keep_vars=True).items():  # a model saved in half precision comes back in it
        value.data = value.data.to(weights[key].dtype)
    model.load_state_dict(weights, strict=True)
    model.eval()
    return model.to(device) if device is not None else model


load = from_pretrained


def checkpoint_folder(
    source: str | Path,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder itself, or the local copy of a Hub repo's config and weights.

    Raises:
        CheckpointError: neither a folder nor a Hub id, or the Hub has no such repo or cannot be reached.
    """
    folder = Path(source)
    if str(source) and folder.is_dir():
        return folder
    hub_id = re.fullmatch(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(\S+))?", str(source), re.ASCII)
    if hub_id is None:
        raise CheckpointError(f"{str(source)!r} is neither a folder nor a Hub id (user/name or user/name@revision)")
    name, at = hub_id.groups()
    if at and revision not in (None, at):
        raise CheckpointError(f"two revisions are given: {at!r} in the id and revision={revision!r}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name, revision=at or revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
                allow_patterns=[CONFIG, WEIGHTS, "README.md"], library_name="attention_refine",
            )
        )  # fmt: skip
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        said = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{str(source)!r} is no folder here, and the Hub did not give it: {said}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a checkpoint folder, checked for what every config has."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}: it is no saved model")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
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
    if not isinstance(config.get("format"), int) or config["format"] > FORMAT:
        raise CheckpointError(
            f"{path} is of format {config.get('format')!r}, this version reads {FORMAT}; upgrade attention-refine"
        )
    for key, kinds in _ENTRIES.items():
        if key not in config:
            raise CheckpointError(f"{path} lacks {key!r}; it was cut short or edited")
        if not isinstance(config[key], kinds):
            raise CheckpointError(f"{path}: {key!r} is {config[key]!r}, which no saved model has there")
    unknown = sorted(config.keys() - _ENTRIES.keys())
    if unknown:
        raise CheckpointError(f"{path} has an unknown entry {unknown[0]!r}; its entries are {', '.join(_ENTRIES)}")
    return config


def build(config: dict[str, Any]) -> RefinedModel:
    """The model a config describes, with fresh weights and without probing."""
    spec = BackboneSpec.from_dict(config["backbone"])
    site = Site.from_dict(config["site"]) if config["site"] else None
    net = spec.build()
    if num_classes(net) not in (None, len(config["labels"])):
        raise ValueError(f"the backbone has {num_classes(net)} classes but there are {len(config['labels'])} labels")
    if site is not None and site.name not in dict(net.named_modules()):
        raise ValueError(f"site {site.name!r} is not a module of {spec.name}")
    backbone = Backbone(net, spec, site, config["preprocessing"]["input_size"])
    head = heads.build(config["head"]["name"], config["head"]["options"]) if config["head"] else None
    made = [objectives.build(entry["name"], entry["options"]) for entry in config["objectives"]]
    model = RefinedModel(backbone, head, made, config["labels"], config["preprocessing"])
    if head is not None:
        head.attach(backbone, model.num_labels, config["head"]["resolved"])
    for objective in made:
        objective.attach(model)
    return model


@contextmanager
def _building(folder: Path) -> Iterator[None]:
    """A config is data from anywhere: whatever it makes a constructor do ends in one sentence."""
    try:
        yield
    except Exception as error:
        said = " ".join((str(error) or type(error).__name__).split())
        raise CheckpointError(f"{folder / CONFIG} cannot be built: {said}") from error


def _check_weights(folder: Path, config: dict[str, Any]) -> None:
    """The stored tensors are the config's, by name and shape, or a sentence says which are not.

    The model is laid out without memory for this, so that a config that asks for more than is there ends here.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS}: the checkpoint is not whole")
    try:
        with safe_open(path, "pt") as stored:
            found = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); copy or download it again") from error
    with _building(folder):
        wanted = _outline(config)
    difference = _difference(wanted, found)
    if difference:
        raise CheckpointError(f"{path} {difference}: it belongs to another {CONFIG}")


def _outline(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors a config asks for, without memory for them where its parts allow that."""
    try:
        with torch.device("meta"):
            model = build(config)
    except (NotImplementedError, RuntimeError):  # a layer that looks at values while it is made
        model = build(config)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _difference(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str | None:
    """How the tensors that were found are not the wanted ones, for a message."""
    for problem, keys in (
        ("lacks", wanted.keys() - found.keys()),
        ("has no place for", found.keys() - wanted.keys()),
        ("has another shape for", {key for key in wanted.keys() & found.keys() if wanted[key] != found[key]}),
    ):
        if keys:
            return f"{problem} {len(keys)} of the model's tensors ({sorted(keys)[0]!r} first)"
    return None
