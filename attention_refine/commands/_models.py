"""Saved models as they are given on the command line: a folder, a run's folder, or a Hub id, with a name or without."""

from __future__ import annotations

from pathlib import Path


def model_folder(given: str) -> str:
    """A saved model, or the best one (else the last) of a run's folder."""
    from ..hub import CONFIG

    places = [Path(given) / name for name in ("", "best", "last")]
    return str(next((place for place in places if (place / CONFIG).is_file()), given))


def named(given: list[str]) -> dict[str, str]:
    """Paths by name: the name given with it, or the folder's; with its parent's where several end alike."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals:
            parts, path = Path(text).parts, text
            alike = sum(Path(other).name == parts[-1] for other in given) > 1
            name = "-".join(parts[-2:]) if alike else parts[-1]
        if name in found:
            raise ValueError(f"two are called {name!r}; name them: plain={text}")
        found[name] = path
    return found
