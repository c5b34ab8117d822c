"""Checkpoints that are whole or absent, and that say when they have been damaged.

A checkpoint is a folder ``step-00000120`` of safetensors and JSON files (nothing pickled) with a manifest of sizes and
SHA-256 sums. It is written beside its final place, flushed to disk and renamed, so that a process killed at any moment
leaves either the whole new checkpoint or none, and never touches an earlier one.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from attention_refine.core.files import atomic_text, room_for
from attention_refine.training.averaging import AveragedWeights
from attention_refine.training.config import TrainingError
from attention_refine.training.sharding import divided_like, whole

MANIFEST = "manifest.json"
LATEST = "latest"


# --- whole or absent -------------------------------------------------------------------------------------------------


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``target`` when the block ends well and is removed otherwise.

    Raises:
        DiskFull: there is no room for it.
    """
    temporary, replaced = target.with_name(f".{target.name}.tmp"), _replaced(target)
    restore_folder(target)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with room_for(target, "; resume=True then goes on from the newest checkpoint"):
            temporary.mkdir(parents=True)
            yield temporary
            for path in sorted(temporary.rglob("*")):
                _flush(path)
            _flush(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    # A folder cannot replace another in one move: the old one waits under a name that restore_folder knows.
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(target, replaced)
    os.rename(temporary, target)
    _flush(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _replaced(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def restore_folder(target: Path) -> None:
    """Put back a folder whose replacement by :func:`atomic_folder` was cut short between its two renames."""
    if not target.exists() and _replaced(target).exists():
        os.rename(_replaced(target), target)


def _flush(path: Path) -> None:
    """Force a file or a folder's entries to disk."""
    if path.is_dir() and os.name == "nt":  # Windows flushes folders by itself and cannot open them
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- damage ----------------------------------------------------------------------------------------------------------


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256_310(file)


def _sha256_310(file: Any) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path) -> None:
    """Write the size and SHA-256 sum of every file of ``folder``."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    entries = {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files}
    (folder / MANIFEST).write_text(json.dumps(entries, indent=1), encoding="utf-8")


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, naming the file; None if it is as it was written."""
    manifest = folder / MANIFEST
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in entries.items()}
    except FileNotFoundError:
        return f"{manifest} is missing"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{manifest} cannot be read"
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size} bytes in place of {size}"
        if _sha256(path) != digest:
            return f"the contents of {path} have changed since it was written"
    return None


# --- checkpoints -----------------------------------------------------------------------------------------------------


def weights_damage(file: Path) -> str | None:
    """What is wrong with a safetensors file as a whole (missing, cut short); None if it can be read."""
    try:
        with safe_open(file, "pt"):
            return None
    except (OSError, SafetensorError) as error:
        return f"{file} cannot be read ({error})"


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoint folders under ``root``, oldest first, damaged ones included."""
    if not root.is_dir():
        return []
    for waiting in root.glob(".step-*.old"):
        restore_folder(root / waiting.name[1 : -len(".old")])
    return sorted(path for path in root.glob("step-*") if path.is_dir())


def newest_intact(root: Path) -> Path | None:
    """The newest checkpoint that is as it was written; a warning names each damaged one passed over.

    Returns None where no checkpoint was ever finished.

    Raises:
        TrainingError: there are checkpoints and all are damaged.
    """
    faults: list[str] = []
    for folder in reversed(list_checkpoints(root)):
        fault = damage(folder)
        if fault is None:
            if faults:
                warnings.warn(f"{'; '.join(faults)}: resuming from the earlier checkpoint {folder}", stacklevel=2)
            return folder
        faults.append(fault)
    if faults:
        raise TrainingError(f"no checkpoint in {root} is intact ({'; '.join(faults)}): start again with overwrite=True")
    return None


def check_weights(model: nn.Module, step: int) -> None:
    """Refuse a checkpoint that would be of no use.

    Raises:
        TrainingError: a weight is not finite.
    """
    for name, value in model.named_parameters():
        if not torch.isfinite(value).all():
            raise TrainingError(
                f"after step {step} the weights {name} are not finite, so no checkpoint was written: "
                "lower learning_rate or set clip_grad_norm, and resume from the last checkpoint"
            )


def save_checkpoint(
    root: Path,
    step: int,
    *,
    model: nn.Module,
    optimizer: dict[str, torch.Tensor],
    state: dict[str, Any],
    generators: list[dict[str, Any]],
    keep_last: int,
    average: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write ``root/step-<step>`` and delete all but the newest ``keep_last`` checkpoints. Main process only.

    Args:
        model: whose weights :func:`check_weights` found finite.
        optimizer: from :func:`optimizer_tensors`.
        state: plain values (JSON) that say where the run is.
        generators: one :func:`generator_states` per process.
        average: of the weights, by name, where one is kept.
    """
    folder = root / f"step-{step:08d}"
    with atomic_folder(folder) as temporary:
        save_model(model, str(temporary / "model.safetensors"))
        save_file(optimizer, str(temporary / "optimizer.safetensors"))
        if average is not None:
            save_file(average, str(temporary / "average.safetensors"))
        (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
        (temporary / "generators.json").write_text(json.dumps(generators), encoding="utf-8")
        write_manifest(temporary)
    atomic_text(root / LATEST, folder.name)
    # Later ones can only be damaged ones that the run was resumed behind.
    kept = [path for path in list_checkpoints(root) if path.name <= folder.name][-keep_last:]
    for path in list_checkpoints(root):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)
    return folder


def read_state(folder: Path) -> dict[str, Any]:
    """The plain values saved with a checkpoint."""
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))


def load_weights(folder: Path, model: nn.Module) -> None:
    """Put the weights back as they were."""
    with _of_the_same_model(folder):
        load_model(model, str(folder / "model.safetensors"))


def load_progress(
    folder: Path, *, optimizer: torch.optim.Optimizer, process: int, processes: int, seed: int,
    average: AveragedWeights | None = None,
) -> None:  # fmt: skip
    """Put the optimiser's state, the averaged weights and this process's random generators back as they were.

    The generators of a checkpoint of another number of processes say nothing of these: they are seeded anew, from
    ``seed``, the checkpoint's step and the process.
    """
    with _of_the_same_model(folder):
        _load_optimizer(optimizer, load_file(str(folder / "optimizer.safetensors")))
        if average is not None:
            average.load(load_file(str(folder / "average.safetensors")))
    states = json.loads((folder / "generators.json").read_text(encoding="utf-8"))
    if len(states) == processes:
        restore_generators(states[process])
    else:
        step = read_state(folder)["progress"]["step"]
        set_seed(int(np.random.SeedSequence((seed, step, process)).generate_state(1)[0]))


@contextmanager
def _of_the_same_model(folder: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError, IndexError) as error:
        raise TrainingError(
            f"{folder} is a checkpoint of another model than the one given ({error}): "
            "wrap the same backbone, head and objectives"
        ) from error


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, keep: bool = True, copy: bool = False
) -> dict[str, torch.Tensor]:
    """The optimiser's state as ``"<parameter>.<name>"``. Its options are not saved: they come from the config.

    Where it is in shards every process must ask, and the one that is to save it keeps it. With ``copy`` what is given
    stays as it is when training goes on.
    """
    tensors = {}
    for row, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if torch.is_tensor(value):
                found = whole(value.detach()).contiguous()
                if keep:
                    tensors[f"{row}.{name}"] = found.to("cpu", copy=copy)
    return tensors


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        row, name = key.split(".", 1)
        parameter = parameters[int(row)]
        if value.ndim:  # in the parameter's own memory format, as it was before it was saved
            value = divided_like(value, parameter)
            value = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
        state.setdefault(int(row), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# --- random generators -----------------------------------------------------------------------------------------------


def generator_states() -> dict[str, Any]:
    """This process's random generators (Python, NumPy, torch, every GPU in use) as plain values."""
    numpy: Any = np.random.get_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": [numpy[0], numpy[1].tolist(), *numpy[2:]],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": [state.numpy().tobytes().hex() for state in on_gpu],
    }


def restore_generators(states: dict[str, Any]) -> None:
    """The inverse of :func:`generator_states`."""

    def tensor(text: str) -> torch.Tensor:
        return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)

    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(tensor(states["torch"]))
    if states["cuda"] and torch.cuda.is_available() and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all([tensor(text) for text in states["cuda"]])
