"""Save and load: ``config.json`` rebuilds the model, ``model.safetensors`` fills it. No pickle, no code from a repo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..backbones.spec import NotRebuildable
from ..core.files import atomic_files
from ..refined import Refined
from . import weights as stored
from .config import CONFIG, CheckpointError, build, model_config, read_config, to_json
from .meta_build import outline

PROCESSOR = "preprocessor_config.json"
CARD = "README.md"


@dataclass(frozen=True)
class Checkpoint:
    """A saved model before its weights are read.

    Attributes:
        source: folder or Hub id, as it was asked for.
        folder: where the files lie; the weights may not be there yet.
        config: from ``config.json``.
        header: of the weights.
        names: of the files of weights.
    """

    source: str
    folder: Path
    config: dict[str, Any]
    header: stored.Header
    names: tuple[str, ...]

    def check(self) -> None:
        """The stored tensors are the config's, by name, shape and type, or a sentence says which are not.

        The model is laid out without memory for this, so that a config that asks for more than is there ends here.

        Raises:
            CheckpointError: it cannot be built, or asks for other tensors.
        """
        where = self.folder / CONFIG
        with _building(where):
            wanted = outline(self.config, self.header)
        found = stored.difference(wanted, self.header)
        if found:
            raise CheckpointError(f"{self.folder / self.names[0]} {found}: it belongs to another {CONFIG}")

    def load(self) -> Refined:
        """The model, in evaluation mode; :meth:`check` comes first."""
        with _building(self.folder / CONFIG):
            model = build(self.config)
        values = stored.read_weights(self.folder / name for name in self.names)
        for key, value in model.state_dict(keep_vars=True).items():  # a model saved in half precision comes back in it
            value.data = value.data.to(values[key].dtype)
        model.load_state_dict(values, strict=True)
        card = self.folder / CARD
        model.card = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
        return model.eval()


def in_folder(folder: Path) -> Checkpoint:
    """The checkpoint in a folder.

    Raises:
        CheckpointError: a file is missing, cut short or not this library's.
    """
    config = read_config(folder / CONFIG)
    files = stored.weight_files(folder)
    names = tuple(file.name for file in files)
    return Checkpoint(str(folder), folder, config, stored.read_headers(files), names)


def save_pretrained(
    model: Refined, folder: str | Path, *, max_shard_size: int | str = "5GB", training_layers: bool = True
) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``preprocessor_config.json`` into ``folder``, all or none.

    They take their places together, once all are on the disk, so that an earlier checkpoint there stays as it was if
    anything goes wrong. Other files in the folder are left alone.

    Args:
        max_shard_size: weights above this size (bytes, or text such as ``"2GB"``) are split into files of at most that,
            with an index.
        training_layers: ``False`` leaves the objectives out, and the layers that only they need: the model predicts and
            explains as before, and is trained on with other objectives or none.

    Raises:
        NotRebuildable: the model could not be loaded again; nothing is written.
    """
    folder = Path(folder)
    config = to_json(model_config(model, training_layers))
    state = {key: value.detach().contiguous().cpu() for key, value in model.state_dict().items()}
    if not training_layers:
        state = {key: value for key, value in state.items() if not key.startswith("objectives.")}
    _check_rebuilt(config, state)
    files = stored.split(stored.without_aliases(state), max_shard_size)
    folder.mkdir(parents=True, exist_ok=True)
    names = [*files, PROCESSOR, CONFIG]
    with atomic_files(*(folder / name for name in names)) as paths:
        at = dict(zip(names, paths))
        for name, content in files.items():
            stored.write(content, at[name])
        at[PROCESSOR].write_text(_processor(model.preprocessing), encoding="utf-8")
        at[CONFIG].write_text(config + "\n", encoding="utf-8")
    stored.remove_others(folder, files)


def _check_rebuilt(config: str, state: dict[str, torch.Tensor]) -> None:
    found = stored.difference(stored.header_of(state), outline(json.loads(config)))
    if found:
        raise NotRebuildable(
            f"what the config rebuilds {found}: a layer was changed after the network was built; change it "
            "by the arguments of timm.create_model, the transformers config or wrap(num_labels=...)"
        )
    for key, value in state.items():
        if value.is_floating_point() and value.isnan().any():
            raise NotRebuildable(f"{key!r} holds NaN, and such a checkpoint is not loaded; go back to an earlier one")


def _processor(preprocessing: dict[str, Any]) -> str:
    """The preprocessing once more, as ``transformers.AutoImageProcessor`` looks for it."""
    return (
        json.dumps({"image_processor_type": "RefinedImageProcessor", **preprocessing}, indent=2, sort_keys=True) + "\n"
    )


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """A config is data from anywhere: whatever it makes a constructor do ends in one sentence."""
    try:
        yield
    except Exception as error:
        said = " ".join((str(error) or type(error).__name__).split())[:500]
        raise CheckpointError(f"{path} cannot be built: {said}") from error
