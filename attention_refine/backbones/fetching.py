"""Networks of transformers that are loaded for what they find, not for what is trained: safetensors alone, and no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Kind:
    """A kind of network: transformers' class, and a published one."""

    network: str
    example: str


@dataclass(frozen=True)
class Fetched:
    """A network as it was saved, what makes its inputs, and their commit on the Hub; None of a folder."""

    net: nn.Module
    inputs: Any
    commit: str | None


def fetched(
    name: str | Path, revision: str | None, kinds: Mapping[str, Kind], does: str, inputs: str = "AutoProcessor"
) -> Fetched:
    """A network of one of the kinds, all of one commit.

    Args:
        name: an id on the Hub, or a folder.
        revision: a branch, tag or commit of the Hub's.
        kinds: by model type.
        does: what all of them do, for the messages: "finds what a text names".
        inputs: transformers' class of what makes its inputs.

    Raises:
        ValueError: a network of another kind, or weights that lack some of it.
        OSError: it cannot be fetched, or has no safetensors.
    """
    import transformers

    name = str(name)
    commit = None if Path(name).is_dir() else _commit(name, revision)
    options: dict[str, Any] = {"trust_remote_code": False} | ({"revision": commit} if commit else {})
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
    except ValueError as error:  # of a type that transformers does not know, or that brings code
        raise ValueError(_other_kind(name, kinds, does, " ".join(str(error).split())[:120])) from error
    except OSError as error:
        raise OSError(_not_fetched(name, revision, error)) from error
    if config.model_type not in kinds:
        raise ValueError(_other_kind(name, kinds, does, f"its type is {config.model_type!r}"))
    network = getattr(transformers, kinds[config.model_type].network)
    try:
        made = getattr(transformers, inputs).from_pretrained(name, **options)
        net, loaded = network.from_pretrained(name, **options, use_safetensors=True, output_loading_info=True)
    except OSError as error:
        raise OSError(_not_fetched(name, revision, error)) from error
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise ValueError(
            f"the weights of {name!r} lack {len(missing)} tensors of a {network.__name__} ({missing[0]} first): take a "
            f"model that {does}, such as {kinds[config.model_type].example}"
        )
    return Fetched(net.float().eval(), made, commit)


def _commit(name: str, revision: str | None) -> str:
    """The commit that a name on the Hub stands for now; without a connection, the last one that was fetched."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except (OSError, HFValidationError) as error:
        raise OSError(_not_fetched(name, revision, error)) from error


def _other_kind(name: str, kinds: Mapping[str, Kind], does: str, why: str) -> str:
    known = ", ".join(f"{kind} ({each.example})" for kind, each in kinds.items())
    return f"{name!r} is no model that {does} ({why}): the kinds are {known}"


def _not_fetched(name: str, revision: str | None, error: Exception) -> str:
    at = f" at {revision!r}" if revision else ""
    return (
        f"{name!r}{at} cannot be fetched ({' '.join(str(error).split())[:200]}): is the name right, has it safetensors, "
        "and is the Hub reachable? Without it, pass the folder of a model"
    )
