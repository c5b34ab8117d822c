"""Heads: modules that stand in the forward pass and make the map. One file, one paper."""

from ._base import Head, heads
from .abn import AttentionBranch, AttentionBranchConfig
from .bilinear import BilinearPooling, BilinearPoolingConfig
from .brnpa import BRNPA, BRNPAConfig

register_head = heads.register
list_heads = heads.names

__all__ = [
    "AttentionBranch",
    "AttentionBranchConfig",
    "BRNPA",
    "BRNPAConfig",
    "BilinearPooling",
    "BilinearPoolingConfig",
    "Head",
    "list_heads",
    "register_head",
]
