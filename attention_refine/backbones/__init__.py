"""The only place that knows timm and transformers: what rebuilds a backbone, where its map acts, how to resume it."""

from .outputs import logits_of
from .sites import Site, UnsupportedBackbone, find_site, infer_layout, reading_site

__all__ = ["Site", "UnsupportedBackbone", "find_site", "infer_layout", "logits_of", "reading_site"]
