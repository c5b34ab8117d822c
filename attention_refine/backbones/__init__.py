"""The only place that knows timm and transformers: what rebuilds a backbone, where its map acts, how to resume it."""

from ..layouts import infer_layout
from .higher_resolution import higher_resolution
from .outputs import logits_of
from .probe import UnsupportedBackbone
from .sites import Site, find_site, reading_site

__all__ = [
    "Site",
    "UnsupportedBackbone",
    "find_site",
    "higher_resolution",
    "infer_layout",
    "logits_of",
    "reading_site",
]
