"""Options of earlier versions under the names of today, by a table, so that a checkpoint is read for good.

An option of a head or an objective that is renamed, or goes, gets a line in :data:`CHANGES` in the same commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.registry import Registry
from ..heads._base import heads
from ..objectives._base import objectives
from ..version import __version__

# What an option's old value is as options of today; an empty dict where it left without a trace.
Change = Callable[[Any], dict[str, Any]]
CHANGES: dict[tuple[str, str, str], Change] = {}  # by kind ("head" or "objective"), name and option


def renamed(new: str) -> Change:
    """The same value under another name."""
    return lambda value: {new: value}


def gone(always: Any) -> Change:
    """An option that every model now has as ``always``.

    Raises:
        ValueError: the checkpoint had it otherwise, which nothing does any longer.
    """

    def change(value: Any) -> dict[str, Any]:
        if value != always:
            raise ValueError(f"the value {value!r} went; it is always {always!r} now")
        return {}

    return change


def of_today(config: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's config whose head and objectives have options that this version knows.

    Args:
        config: checked for its entries; it is left as it is.

    Raises:
        ValueError: an option that no version up to this one had, or a value that went.
    """
    version = config["library_version"]
    head = config["head"] and _entry(heads, config["head"], version)
    kept = [_entry(objectives, entry, version) for entry in config["objectives"]]
    return {**config, "head": head, "objectives": kept}


def _entry(registry: Registry, entry: dict[str, Any], version: str) -> dict[str, Any]:
    name, old = entry.get("name"), entry.get("options")
    made = registry.entries.get(name) if isinstance(name, str) else None
    config = getattr(made, "config_class", None)
    if config is None or not isinstance(old, dict):
        return entry  # nobody's, or cut short: building it says so
    options: dict[str, Any] = {}
    for option, value in old.items():
        change = CHANGES.get((registry.kind, str(name), option))
        try:
            options |= change(value) if change else {option: value}
        except ValueError as error:
            raise ValueError(f"{registry.kind} {name!r}, option {option!r} of version {version}: {error}") from error
    known = config.__dataclass_fields__
    for option in options.keys() - known.keys() if version != __version__ else ():  # building says so of this version's
        raise ValueError(
            f"{registry.kind} {name!r} has no option {option!r}, which version {version} wrote and this one, "
            f"{__version__}, does not know; upgrade attention-refine. Its options are {', '.join(known)}"
        )
    return {**entry, "options": options}
