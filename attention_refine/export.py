"""A model for other runtimes: ``torch.export`` and ONNX, logits and maps; and its backbone for timm or transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .backbones.contexts import quiet
from .backbones.saving import save_network
from .core.files import DiskFull, room_for
from .refined import Refined


class _LogitsAndMaps(nn.Module):
    """The model with a plain tuple for its output: ``(B, C, H, W)`` to logits and maps, logits alone without a head."""

    def __init__(self, model: Refined):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        output = self.model(pixel_values, compute_losses=False)
        return output.logits if output.maps is None else (output.logits, output.maps)


def export_program(model: Refined, batch: int | None = None) -> torch.export.ExportedProgram:
    """``torch.export`` of the model in evaluation mode; call it as ``program.module()(pixel_values)``.

    Args:
        batch: images at a time; by default any number, or one where the network allows one number only.

    Returns:
        A program from ``(B, C, H, W)``, of the model's input size, to logits and maps (logits alone without a head).
    """
    straight = _LogitsAndMaps(model)
    example = model.backbone.example()
    shapes = None if batch else ({0: torch.export.Dim.AUTO},)
    with quiet(straight), torch.no_grad():
        inputs = example.expand(batch or 2, *example.shape[1:]).contiguous()
        program = torch.export.export(straight, (inputs,), dynamic_shapes=shapes, strict=False)
    return program if batch or program.range_constraints else export_program(model, batch=1)


def export_onnx(model: Refined, path: str | Path, batch: int | None = None) -> None:
    """The model as an ONNX file, with the input ``pixel_values`` and the outputs ``logits`` and ``maps``.

    Args:
        batch: as in :func:`export_program`.

    Raises:
        RuntimeError: the packages ``onnx`` and ``onnxscript`` are not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RuntimeError("ONNX needs two more packages: pip install onnx onnxscript") from error
    names = ["logits"] if model.head is None else ["logits", "maps"]
    program = export_program(model, batch)
    made = torch.onnx.export(program, input_names=["pixel_values"], output_names=names, dynamo=True, verbose=False)
    assert made is not None, "with dynamo=True it is the program"
    path = Path(path)
    try:
        with room_for(path):
            made.save(str(path))
    except DiskFull:
        path.unlink(missing_ok=True)
        raise


def export_backbone(model: Refined, folder: str | Path) -> None:
    """Write the backbone alone, as its own library writes it, with the model's classes and preprocessing.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` or transformers' ``from_pretrained(FOLDER)`` reads it.
    The head and what it does to the prediction stay behind: this is the network the map acted on.

    Raises:
        NotRebuildable: a network of neither library, or one whose classifier this library added (``pool="avg"``).
    """
    save_network(model.backbone.net, Path(folder), model.labels, model.preprocessing)
