"""Names for heads and objectives, so that ``head="abn"`` and a config file mean a class."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Registry:
    """Classes by name. ``kind`` is the word its error messages use."""

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, type] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """A class decorator: ``@heads.register("abn")``. A name is taken once."""

        def add(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise ValueError(f"{self.kind} {name!r} is already registered, by {self._classes[name].__qualname__}")
            self._classes[name] = cls
            cls.name = name
            return cls

        return add

    def names(self) -> list[str]:
        return sorted(self._classes)

    def holds(self, instance: Any) -> bool:
        """Whether ``build`` would make an object of this one's class from its name."""
        return self._classes.get(getattr(instance, "name", None)) is type(instance)

    def build(self, name: str, options: dict[str, Any] | None = None) -> Any:
        """An instance of the class of that name.

        Raises:
            ValueError: no such name, or an option it does not take.
        """
        if name not in self._classes:
            close = difflib.get_close_matches(name, self.names(), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{self.kind} {name!r} is not one of {', '.join(self.names()) or '(none)'}{hint}")
        return self._classes[name](**(options or {}))


def checked_options(cls: type, options: dict[str, Any], owner: str) -> Any:
    """``cls(**options)`` for a config dataclass, an unknown option refused by name with the known ones."""
    known = cls.__dataclass_fields__
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{owner} has no option {unknown[0]!r}; its options are {', '.join(known)}{hint}")
    return cls(**options)


def check_choice(owner: str, field: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse a value outside its choices, with all three in the sentence."""
    if value not in choices:
        raise ValueError(f"{owner}: {field}={value!r} is not one of {', '.join(map(repr, choices))}")
