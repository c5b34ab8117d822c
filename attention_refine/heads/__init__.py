"""Heads: modules that stand in the forward pass and make the map. One file, one paper."""

from .abn import AttentionBranch
from .base import Head, heads
from .bilinear import BilinearPooling
from .brnpa import BRNPA

register_head = heads.register
list_heads = heads.names

__all__ = ["AttentionBranch", "BRNPA", "BilinearPooling", "Head", "list_heads", "register_head"]
