"""``model.safetensors``, whole or in shards: its header is read and judged before a byte of the weights is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .config import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)
LARGEST_HEADER = 16 * 2**20  # bytes, of a header or an index
MOST_TENSORS = 20_000
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A stored tensor, without its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


Header = dict[str, Entry]


def header_of(state: Mapping[str, Tensor]) -> Header:
    return {key: Entry(tuple(value.shape), value.dtype) for key, value in state.items()}


def difference(wanted: Header, found: Header) -> str | None:
    """How the tensors that were found are not the wanted ones, for a message. Floats may be of another precision."""
    common = wanted.keys() & found.keys()

    def other_type(key: str) -> bool:
        one, other = wanted[key].dtype, found[key].dtype
        return one != other and not (one.is_floating_point and other.is_floating_point)

    for problem, keys in (
        ("lacks", wanted.keys() - found.keys()),
        ("has no place for", found.keys() - wanted.keys()),
        ("has another shape for", {key for key in common if wanted[key].shape != found[key].shape}),
        ("has another type of number for", {key for key in common if other_type(key)}),
    ):
        if keys:
            return f"{problem} {len(keys)} of the model's tensors ({sorted(keys)[0][:200]!r} first)"
    return None


# Reading --------------------------------------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """The one file of weights in a folder, or its shards.

    Raises:
        CheckpointError: there are none, both kinds, or an index that names anything but shards beside it.
    """
    whole, index = folder / WEIGHTS, folder / INDEX
    if not index.exists():
        if not whole.is_file():
            raise CheckpointError(f"{folder} has no {WEIGHTS}: the checkpoint is not whole")
        return [whole]
    if whole.exists():
        raise CheckpointError(f"{folder} holds {WEIGHTS} and {INDEX}; delete the one that is older")
    if index.stat().st_size > LARGEST_HEADER:
        raise CheckpointError(f"{index} is larger than any index of shards; it is not read")
    files = [folder / name for name in shards_in(index.read_bytes(), str(index))]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{folder} has no {file.name}, which {INDEX} names: the checkpoint is not whole")
    return files


def shards_in(content: bytes, where: str) -> list[str]:
    """Names of the shards that an index names, in order; nothing but ``model-00001-of-00002.safetensors`` is taken."""
    try:
        index = json.loads(content.decode("utf-8"))
        names = index["weight_map"].values()
        bad = next((name for name in names if not isinstance(name, str) or not SHARD.fullmatch(name)), None)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{where} is no index of shards ({type(error).__name__}: {error})") from error
    if bad is not None:
        raise CheckpointError(
            f"{where} names {str(bad)[:200]!r}; a shard beside it is called like model-00001-of-00002.safetensors"
        )
    found = sorted(set(names))
    counts = {name.rsplit("-", 1)[1] for name in found}
    expected = [f"model-{place + 1:05d}-of-{len(found):05d}.safetensors" for place in range(len(found))]
    if len(counts) != 1 or found != expected:
        raise CheckpointError(f"{where} does not name every shard from the first to the last")
    return found


def read_headers(files: Iterable[Path]) -> Header:
    """The header of all the files together; no weight is read.

    Raises:
        CheckpointError: a file is cut short or no safetensors file, a tensor is there twice, or of a type no layer has.
    """
    found: dict[str, tuple[Any, str]] = {}
    for file in files:
        try:
            with open(file, "rb") as stream:
                check_header_length(int.from_bytes(stream.read(8), "little"), file.stat().st_size, str(file))
            with safe_open(file, "pt") as stored:
                for key in stored.keys():  # noqa: SIM118
                    part = stored.get_slice(key)
                    _add(found, key, part.get_shape(), part.get_dtype(), file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} is not a whole safetensors file ({error}); copy or download it again"
            ) from error
    return _entries(found, files)


def check_header_length(length: int, size: int, where: str) -> None:
    if size < 8 or length > size - 8:
        raise CheckpointError(f"{where} is not a whole safetensors file; copy or download it again")
    if length > LARGEST_HEADER:
        raise CheckpointError(
            f"{where} claims a header of {length / 2**20:.0f} MiB, more than any model needs; refused"
        )


def remote_header(parsed: Iterable[tuple[str, Any]]) -> Header:
    """:func:`read_headers` of ``(file name, huggingface_hub's SafetensorsFileMetadata)``."""
    found: dict[str, tuple[Any, str]] = {}
    for name, metadata in parsed:
        for key, info in metadata.tensors.items():
            _add(found, key, info.shape, info.dtype, name)
    return _entries(found, "the repo")


def _add(found: dict, key: str, shape: Any, dtype: str, file: Any) -> None:
    if key in found:
        raise CheckpointError(f"{file} holds {key[:200]!r}, which another shard holds too")
    found[key] = (tuple(shape), dtype)
    if len(found) > MOST_TENSORS:
        raise CheckpointError(f"{file}: more than {MOST_TENSORS} tensors, which no backbone has; refused")


def _entries(found: dict[str, tuple[tuple[int, ...], str]], where: Any) -> Header:
    for key, (_, dtype) in found.items():
        if dtype not in TYPES:
            raise CheckpointError(f"{key[:200]!r} is stored as {dtype}; a checkpoint holds {', '.join(TYPES)}")
    return {key: Entry(shape, TYPES[dtype]) for key, (shape, dtype) in found.items()}


def read_weights(files: Iterable[Path]) -> dict[str, Tensor]:
    """The tensors, once none of them holds NaN."""
    weights: dict[str, Tensor] = {}
    for file in files:
        for key, value in load_file(file).items():
            if value.is_floating_point() and value.isnan().any():
                raise CheckpointError(f"{file} holds NaN in {key!r}: the training that made it went wrong")
            weights[key] = value
    return weights


# Writing --------------------------------------------------------------------------------------------------------------


def split(state: dict[str, Tensor], max_shard_size: int | str) -> dict[str, dict[str, Tensor] | str]:
    """Contents by file name: one file of weights, or shards with their index as text."""
    from huggingface_hub import split_torch_state_dict_into_shards

    plan = split_torch_state_dict_into_shards(state, max_shard_size=max_shard_size)
    if not plan.is_sharded:
        return {WEIGHTS: state}
    files: dict[str, dict[str, Tensor] | str] = {
        name: {key: state[key] for key in keys} for name, keys in plan.filename_to_tensors.items()
    }
    index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    return {**files, INDEX: json.dumps(index, indent=2, sort_keys=True) + "\n"}


def write(content: dict[str, Tensor] | str, path: Path) -> None:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        save_file(content, path, metadata={"format": "pt"})


def is_weights(name: str) -> bool:
    """Whether a file of that name is part of a checkpoint's weights."""
    return name in (WEIGHTS, INDEX) or SHARD.fullmatch(name) is not None


def remove_others(folder: Path, names: Iterable[str]) -> None:
    """Delete the weights of an earlier checkpoint that was split otherwise."""
    for path in folder.iterdir():
        if is_weights(path.name) and path.name not in names:
            path.unlink()


def without_aliases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory (tied weights) as copies: the file then needs no knowledge of the tie."""
    seen: set[int] = set()
    out = {}
    for key, value in state.items():
        pointer = value.untyped_storage().data_ptr()
        out[key] = value.clone() if pointer in seen else value
        seen.add(pointer)
    return out
