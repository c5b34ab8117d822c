"""The two checksums the Hub files contents under."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path


def is_checksum(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) is not None


def matches(path: Path, checksum: str) -> bool:
    """Whether a file's content has that checksum: the SHA-256, or, for small files, the SHA-1 as git computes it."""
    if len(checksum) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as stream:
        while block := stream.read(2**22):
            digest.update(block)
    return digest.hexdigest() == checksum
