"""What is told of a person's disk: nothing but the last name of a path."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath
from typing import Any


def without_places(value: Any) -> Any:
    """A text, or the texts in lists and mappings, with paths of this machine as their last name; Hub ids stay.

    A path is what is absolute (of Windows, too), begins with ``~``, ``.`` or ``file:``, has more than one slash, or exists here.
    """
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(inner) for inner in value]
    if not isinstance(value, str) or not value or "\n" in value:
        return value
    if value.startswith("~"):  # not looked up: "~" alone is the name of its person
        return Path(value).name
    if value.lower().startswith("file:"):
        return PureWindowsPath(value).name or value
    if "://" in value:
        return value
    if PureWindowsPath(value).drive or "\\" in value:
        return PureWindowsPath(value).name or value
    if value.startswith(".") or Path(value).is_absolute() or value.count("/") > 1 or _exists(value):
        return Path(value).resolve().name
    return value


def command_without_places(command: str) -> str:
    """The words of a command line, each by :func:`without_places`, those behind a ``=`` as well."""

    def told(word: str) -> str:
        bare = word.strip("'\"")
        name, sign, value = bare.rpartition("=")
        return word.replace(bare, f"{name}{sign}{without_places(value)}") if "/" in bare or "\\" in bare else word

    return re.sub(r"\"[^\"\n]*\"|'[^'\n]*'|[^\s\"']+", lambda found: told(found[0]), command)


def marked(value: Any) -> Any:
    """A text, or the texts in lists and mappings, with ``./`` before a relative path that exists here.

    ``clinic/eyes`` could be an id of the Hub as well, and once the folder is gone nothing else tells the two apart.
    """
    if isinstance(value, dict):
        return {key: marked(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [marked(inner) for inner in value]
    if isinstance(value, str) and re.fullmatch(r"[^./~\\][^/\\]*/[^/\\]+", value) and _exists(value):
        return f"./{value}"
    return value


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a name, or a null byte
        return False
