"""Change what a vision model attends to: wrap a timm or Hugging Face backbone, fine-tune, measure, share."""

from . import backbones, maps, metrics
from .backbones import UnsupportedBackbone
from .backbones.adapter import Backbone
from .heads import AttentionBranch, Head, list_heads, register_head
from .hub import CheckpointError, load
from .model import RefinedModel, RefinedOutput, wrap
from .objectives import Objective, list_objectives, register_objective

__version__ = "0.1.0"

__all__ = [
    "AttentionBranch",
    "Backbone",
    "CheckpointError",
    "Head",
    "Objective",
    "RefinedModel",
    "RefinedOutput",
    "UnsupportedBackbone",
    "backbones",
    "list_heads",
    "list_objectives",
    "load",
    "maps",
    "metrics",
    "register_head",
    "register_objective",
    "wrap",
]
