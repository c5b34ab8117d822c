"""A model for other runtimes: ``torch.export`` and ONNX, logits and maps; and its backbone for timm or transformers."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .backbones.attention import ClassRowGain
from .backbones.outputs import first_tensor, logits_of, with_first_tensor
from .backbones.saving import save_network
from .backbones.scopes import output_hook, quiet
from .backbones.trace import image_size_of
from .layouts import from_grid, to_grid
from .model import RefinedModel


class Straight(nn.Module):
    """The model in evaluation mode as one pass that can be traced: ``(B, C, H, W)`` to logits, and the maps.

    The network runs once and the map acts on its way, where :class:`RefinedModel` stops it and goes on. A head with a
    map per class runs it once a class more.
    """

    def __init__(self, model: RefinedModel):
        super().__init__()
        self.net = model.backbone.net
        self.head = model.head
        self.site = model.backbone.site
        self.share = 1.0
        if self.head is not None and self.head.classifies:
            with quiet(self.head):  # a number, not a tensor, and as it is in evaluation: no branch of a graph is on it
                self.share = float(self.head.strength())

    def forward(self, pixel_values: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits ``(B, classes)`` and maps ``(B, K, h, w)``; the logits alone without a head."""
        if self.head is None:
            return logits_of(self.net(pixel_values))
        with ExitStack() as stack:
            found: dict[str, Any] = {}

            def act(module: nn.Module, args: Any, output: Any) -> Any:
                raw = first_tensor(output)
                found["grid"] = grid = to_grid(raw, self.site.layout, image_size_of(pixel_values))
                refined, found["maps"], _ = self.head(grid)
                if self.head.classifies:
                    found["logits"] = self.head.classify(refined)
                elif self.head.per_class:
                    found["gain"] = self.head.gain(found["maps"])
                elif self.site.mechanism == "attention":
                    gain = self.head.gain(found["maps"]).mean(1, keepdim=True)
                    stack.enter_context(ClassRowGain(gain, self.site.layout))
                else:
                    return with_first_tensor(output, from_grid(refined.to(raw.dtype), raw, self.site.layout))
                return output

            stack.enter_context(output_hook(self.net.get_submodule(self.site.name), act))
            logits = logits_of(self.net(pixel_values))
        if self.head.classifies:
            logits = found["logits"] if self.share == 1 else torch.lerp(logits, found["logits"], self.share)
        elif self.head.per_class:
            gains = found["gain"].split(1, dim=1)
            passes = [self._with_gain(pixel_values, found["grid"], gain) for gain in gains]
            logits = torch.stack([each[:, k] for k, each in enumerate(passes)], dim=1)
        return logits, found["maps"]

    def _with_gain(self, pixel_values: Tensor, grid: Tensor, gain: Tensor) -> Tensor:
        """A pass for one class."""

        def act(module: nn.Module, args: Any, output: Any) -> Any:
            if self.site.mechanism == "attention":
                stack.enter_context(ClassRowGain(gain, self.site.layout))
                return output
            raw = first_tensor(output)
            scaled = grid * gain.to(grid.dtype)
            return with_first_tensor(output, from_grid(scaled.to(raw.dtype), raw, self.site.layout))

        with ExitStack() as stack:
            stack.enter_context(output_hook(self.net.get_submodule(self.site.name), act))
            return logits_of(self.net(pixel_values))


def export_program(model: RefinedModel, batch: int | None = None) -> torch.export.ExportedProgram:
    """``torch.export`` of the model in evaluation mode; call it as ``program.module()(pixel_values)``.

    Args:
        batch: images at a time; by default any number, or one where the network allows one number only.

    Returns:
        A program from ``(B, C, H, W)``, of the model's input size, to logits and maps (logits alone without a head).
    """
    straight = Straight(model)
    example = model.backbone.example()
    shapes = None if batch else ({0: torch.export.Dim.AUTO},)
    with quiet(straight), torch.no_grad():
        inputs = example.expand(batch or 2, *example.shape[1:]).contiguous()
        program = torch.export.export(straight, (inputs,), dynamic_shapes=shapes, strict=False)
    return program if batch or program.range_constraints else export_program(model, batch=1)


def export_onnx(model: RefinedModel, path: str | Path, batch: int | None = None) -> None:
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
    made.save(str(path))


def export_backbone(model: RefinedModel, folder: str | Path) -> None:
    """Write the backbone alone, as its own library writes it, with the model's classes and preprocessing.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` or transformers' ``from_pretrained(FOLDER)`` reads it.
    The head and what it does to the prediction stay behind: this is the network the map acted on.

    Raises:
        NotRebuildable: a network of neither library, or one whose classifier this library added (``pool="avg"``).
    """
    save_network(model.backbone.net, Path(folder), model.labels, model.preprocessing)
