"""What people pass to ``wrap`` in place of a network, and networks whose output is no logits: a sentence for each."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .contexts import quiet
from .outputs import logits_of, several_logits

_TORCH_FILES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".pickle")
_OTHER_FILES = {
    ".onnx": "ONNX", ".h5": "Keras", ".keras": "Keras", ".pb": "TensorFlow", ".tflite": "TensorFlow Lite",
    ".mlmodel": "Core ML", ".engine": "TensorRT", ".gguf": "GGUF", ".npz": "JAX or NumPy",
}  # fmt: skip


def refuse_no_source(source: Any) -> None:
    """Refuse what is neither a module nor a text, and text that is the path of a file.

    Raises:
        TypeError: a class, a function, a state dict, a list of layers, a config …
        ValueError: a file of weights, or a module that is no network.
    """
    if isinstance(source, nn.Module):
        _refuse_no_network(source)
    elif isinstance(source, (str, os.PathLike)):
        _refuse_file(os.fspath(source))
    else:
        raise TypeError(f"wrap takes a network, the name of one or a folder, got {_what(source)}")


def _refuse_no_network(net: nn.Module) -> None:
    kind = type(net).__name__
    if type(net).forward is nn.Module.forward:
        raise ValueError(f"{kind} has no forward pass; put its layers in a network, torch.nn.Sequential(*layers)")
    if next(net.parameters(), None) is None:
        raise ValueError(f"{kind} has no parameters, so it is no trained network; pass the classifier itself")
    if any(parameter.is_meta for parameter in net.parameters()):
        raise ValueError(
            f"the weights of {kind} are on the device 'meta', where they have no values: make it outside of "
            "torch.device('meta') and init_empty_weights, and load its weights before wrapping"
        )


_LAST = ("fc", "classifier", "head", "heads")  # what the networks of all libraries call their classifier


def refuse_features(net: nn.Module) -> None:
    """Refuse a network whose classifier was taken off: its output is features, and would count as so many classes.

    Raises:
        ValueError: an ``nn.Identity`` stands in the classifier's place.
    """
    last = {name: module for name in _LAST if isinstance(module := getattr(net, name, None), nn.Module)}
    if last and all(isinstance(module, nn.Identity) for module in last.values()):
        name, kind = next(iter(last)), type(net).__name__
        raise ValueError(
            f"{kind} has no classifier ({name} is torch.nn.Identity()), and its features are no logits; put one in its place, "
            f"net.{name} = torch.nn.Linear(features, classes), before wrapping"
        )


def _refuse_file(path: str) -> None:
    end = Path(path).suffix.lower()
    if not path.strip():
        raise ValueError(
            f"{path!r} names no network; pass a timm name such as 'resnet50', a Hugging Face id or a folder"
        )
    if Path(path).is_dir():
        return
    if end == ".safetensors":
        raise ValueError(
            f"{path!r} is a file of weights, which do not say what network they are of: "
            f"ar.wrap('resnet18', pretrained={path!r}) for a timm name, or the folder that holds its config.json"
        )
    if end in _TORCH_FILES:
        raise ValueError(
            f"{path!r} is a file of torch, and wrap reads no pickles: make the network, "
            f"net.load_state_dict(torch.load({path!r}, weights_only=True)), and pass net. In a file that holds more "
            "than weights they are an entry, usually 'state_dict' or 'model'"
        )
    if end in _OTHER_FILES:
        raise ValueError(
            f"{path!r} is a model of {_OTHER_FILES[end]}, in which no map can act; pass the torch network it was made of"
        )
    if Path(path).is_file():
        raise ValueError(f"{path!r} is a file, and no folder of a saved model; pass the folder, a name or an id")


def _what(source: Any) -> str:
    """What somebody passed, and what to pass for it."""
    kind = type(source).__name__
    if inspect.isclass(source):
        name = source.__name__
        hint = "AutoModelForImageClassification.from_pretrained(...)" if hasattr(source, "from_pretrained") else name
        made = hint if hint != name else f"{name}(...), or timm.create_model('resnet50')"
        return f"the class {name}; pass a network made of it: {made}"
    if inspect.isroutine(source):
        return f"the function {getattr(source, '__name__', kind)}; call it, and pass the network that it makes"
    if isinstance(source, Mapping):
        entries = ", ".join(repr(key) for key in list(source)[:3])
        if any(isinstance(value, Tensor) for value in source.values()):
            return (
                f"weights without a network ({_a(kind)} of {len(source)} tensors: {entries} ...); make the network, "
                "net.load_state_dict(weights), and pass net"
            )
        inner = next((key for key, value in source.items() if isinstance(value, Mapping)), None)
        of = "" if inner is None else f"; if its weights are {inner!r}, net.load_state_dict(checkpoint[{inner!r}])"
        return f"{_a(kind)} with the entries {entries}{of}: make the network and pass it"
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        if source and all(isinstance(part, nn.Module) for part in source):
            return f"{_a(kind)} of {len(source)} layers; make one network of them, torch.nn.Sequential(*layers)"
        return f"{_a(kind)} of {len(source)}; wrap one network at a time"
    if hasattr(source, "model_type") and hasattr(source, "to_dict"):
        return f"{_a(kind)}, which has no weights; pass AutoModelForImageClassification.from_config(config)"
    shown = repr(source)
    return shown if len(shown) <= 60 and not shown.startswith("<") else _a(kind)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIOUaeiou" else f"a {kind}"


def check_logits(net: nn.Module, output: Any, pixel_values: Tensor) -> Tensor:
    """``(B, classes)``, the logits in a network's output, held against what else networks return.

    Args:
        output: what the network returned, in evaluation mode.
        pixel_values: for what.

    Raises:
        TypeError: no logits, several that might be, or numbers of classes.
        ValueError: probabilities, or NaN.
    """
    logits = logits_of(output)
    kind = type(net).__name__
    several = several_logits(output)
    if several:
        raise TypeError(
            f"{kind} returns {len(several)} tensors that might be its logits: {', '.join(several)}; pass a module whose "
            "forward returns the logits alone, or a dict with an entry 'logits'"
        )
    if not logits.is_floating_point():
        raise TypeError(
            f"{kind} returns {str(logits.dtype).removeprefix('torch.')}, numbers of classes; it must return a logit for "
            "each class (leave argmax out)"
        )
    if not logits.isfinite().all():
        broken = next((name for name, value in net.state_dict().items() if not value.isfinite().all()), None)
        raise ValueError(
            f"the logits of {kind} are NaN or infinite for a black image"
            + (f", and so is its weight {broken!r}" if broken else "")
            + ": load its weights again"
        )
    if ((logits >= 0) & (logits <= 1)).all():
        _refuse_probabilities(net, pixel_values)
    return logits


def _refuse_probabilities(net: nn.Module, pixel_values: Tensor) -> None:
    """Refuse a network that ends in a softmax or a sigmoid, a module or a function: the graph of its output tells."""
    results: list[tuple[str, Tensor]] = []
    kinds = (nn.Softmax, nn.Sigmoid)
    handles = [
        module.register_forward_hook(lambda module, args, result, name=name: results.append((name, result)))
        for name, module in net.named_modules()
        if isinstance(module, kinds)
    ]
    try:
        with torch.enable_grad(), quiet(net):
            step = _last_step(logits_of(net(pixel_values.clone().requires_grad_())))
        made = next((name for name, result in results if step is not None and _last_step(result) is step), None)
    finally:
        for handle in handles:
            handle.remove()
    ends = {"SoftmaxBackward0": "softmax", "SigmoidBackward0": "sigmoid"}.get(step.name() if step else "")
    if ends is None:
        return
    if made is None:
        remedy = f"leave {ends} out of its forward pass"
    else:
        place = "".join(f".{part}" if part.isidentifier() else f"[{part}]" for part in made.split("."))
        remedy = f"put torch.nn.Identity() in its place, net{place} = torch.nn.Identity()"
    raise ValueError(
        f"{type(net).__name__} returns probabilities (it ends in a {ends}) where logits are expected: losses and reports make "
        f"probabilities of them once more; {remedy}, before wrapping"
    )


def _last_step(result: Tensor) -> Any:
    """The operation that made a tensor's values: reshaping them makes none."""
    step = result.grad_fn
    while step is not None and step.name().startswith(_RESHAPING):
        step = step.next_functions[0][0]
    return step


_RESHAPING = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Flatten", "ToCopy", "Clone", "Alias", "Slice",
              "Select", "Permute", "Transpose")  # fmt: skip
