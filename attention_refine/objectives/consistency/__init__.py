"""Attention consistency: two maps of an image are told to agree. :mod:`.objective` is the method, the rest what it is made of."""

from .objective import AttentionConsistency, AttentionConsistencyConfig

__all__ = ["AttentionConsistency", "AttentionConsistencyConfig"]
