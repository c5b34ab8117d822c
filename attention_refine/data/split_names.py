"""Splits as people call them."""

from __future__ import annotations

import re

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}


def canonical_split(word: str) -> str | None:
    """The split that a folder's name means, as it stands or with a word for data behind it; None for other names."""
    bare = re.sub(r"[ _-]?(set|data|dataset|split|images|imgs)$", "", word.strip().lower())
    return next((name for name, short in SPLITS.items() if bare in short), None)
