"""Heads: modules that stand in the forward pass and make the map. One file, one paper."""

from .abn import AttentionBranch
from .base import Head, heads

register_head = heads.register
list_heads = heads.names

__all__ = ["AttentionBranch", "Head", "list_heads", "register_head"]
