"""What a card says of a person's disk: nothing but the last name of a path."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import Any


def without_places(value: Any) -> Any:
    """A text, or the texts in lists and mappings, with paths of this machine as their last name; Hub ids stay.

    A path is what is absolute (of Windows, too), begins with ``~`` or ``.``, has more than one slash, or exists here.
    """
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(inner) for inner in value]
    if not isinstance(value, str) or not value or "\n" in value or "://" in value:
        return value
    if PureWindowsPath(value).drive or "\\" in value:
        return PureWindowsPath(value).name or value
    if value.startswith((".", "~")) or Path(value).is_absolute() or value.count("/") > 1 or _exists(value):
        return Path(value).expanduser().resolve().name
    return value


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or a null byte
        return False
