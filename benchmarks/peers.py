"""The libraries that a benchmark measures beside ours, where they are installed: captum, grad-cam, torchcam."""

from __future__ import annotations

import importlib
from types import ModuleType

PACKAGES = {"captum.attr": "captum", "pytorch_grad_cam": "grad-cam", "torchcam": "torchcam"}


def peer(module: str) -> ModuleType | None:
    """The module, or None with a word about it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        print(f"(left out: {module}; pip install {PACKAGES[module.split('.metrics')[0].split('.methods')[0]]})")
        return None
