"""Names for heads, objectives, maps and measures, so that ``head="abn"`` and a config file mean a class."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

Entry = TypeVar("Entry")
Base = TypeVar("Base")


class Named(Protocol):
    """What a registered class has from its registry."""

    name: str


T = TypeVar("T", bound=Named)


class Registry(Generic[Entry]):
    """Classes, or what is known of functions, by name.

    Args:
        kind: the word its error messages use.
        home: module that makes the entries, imported when one is asked for that is not there yet.
    """

    def __init__(self, kind: str, home: str | None = None):
        self.kind, self.home = kind, home
        self.entries: dict[str, Entry] = {}
        self._by: dict[str, str] = {}

    def enter(self, name: str, entry: Any, by: Any) -> None:
        """Give the entry the name; ``by`` is the class or function that it is of.

        Raises:
            ValueError: the name is taken.
        """
        if name in self.entries:
            raise ValueError(f"{self.kind} {name!r} is already registered, by {self._by[name]}")
        self.entries[name], self._by[name] = entry, by.__qualname__

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """A class decorator: ``@heads.register("abn")``. A name is taken once."""

        def add(cls: type[T]) -> type[T]:
            self.enter(name, cls, cls)
            cls.name = name
            return cls

        return add

    def names(self) -> list[str]:
        return sorted(self.entries)

    def holds(self, instance: Any) -> bool:
        """Whether ``build`` would make an object of this one's class from its name."""
        return self.entries.get(getattr(instance, "name", "")) is type(instance)

    def named(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            ValueError: no such name.
        """
        if name not in self.entries and self.home:
            import_module(self.home)
        if name not in self.entries:
            close = difflib.get_close_matches(name, self.names(), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{self.kind} {name!r} is not one of {', '.join(self.names()) or '(none)'}{hint}")
        return self.entries[name]

    def build(self, name: str, options: dict[str, Any] | None = None) -> Any:
        """An instance of the class of that name.

        Raises:
            ValueError: no such name, or an option it does not take.
        """
        made: Any = self.named(name)
        return made(**(options or {}))

    def made(self, given: Any, base: type[Base]) -> Base:
        """What a name stands for, with its default options; an object of the class ``base`` is taken as it is.

        Raises:
            ValueError: no such name, or an object without one.
            TypeError: neither a name nor such an object.
        """
        if isinstance(given, str):
            return self.build(given)
        if isinstance(given, type) and issubclass(given, base):
            raise TypeError(f"{given.__name__} is a class; pass an object of it, {given.__name__}(...)")
        if not isinstance(given, base):
            raise TypeError(f"{given!r} is no {self.kind}; pass an object or one of {', '.join(self.names())}")
        if not getattr(given, "name", None):
            raise ValueError(f"{type(given).__name__} has no name; decorate it with ar.register_{self.kind}(...)")
        return given


def import_file(path: str | Path) -> None:
    """Run a Python file as a module of its name: what it registers can be asked for by name from then on.

    Raises:
        ValueError: it is no Python file, or has the name of a module that is imported already.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(
            f"{str(path)!r} is no Python file: give one that registers heads, objectives, maps or measures"
        )
    if path.stem in sys.modules:
        raise ValueError(
            f"{str(path)!r} has the name of the module {path.stem!r}, which is imported already: rename it"
        )
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a file that ends with .py has a loader"
    sys.modules[path.stem] = module = module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)


def checked_options(cls: type[Any], options: dict[str, Any], owner: str) -> Any:
    """``cls(**options)`` for a config dataclass, an unknown option refused by name with the known ones."""
    known = cls.__dataclass_fields__
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{owner} has no option {unknown[0]!r}; its options are {', '.join(known)}{hint}")
    return cls(**options)


def show_options(cls: type[Any]) -> None:
    """Write the options of a class that takes its config's fields as keywords into its signature and its docstring.

    ``help``, completion and notebooks then show them in place of ``**options``. A class whose ``__init__`` takes no
    ``**options`` keeps its own signature.
    """
    own = list(inspect.signature(cls.__init__).parameters.values())[1:]
    config = getattr(cls, "config_class", None)
    if config is None or not own or own[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        cls.__signature__ = inspect.Signature(own)
        return
    try:
        fields = inspect.signature(config, eval_str=True).parameters
    except NameError:  # an annotation that is imported for type checkers alone
        fields = inspect.signature(config).parameters
    taken = {parameter.name for parameter in own}
    added = [each.replace(kind=each.KEYWORD_ONLY) for name, each in fields.items() if name not in taken]
    cls.__signature__ = inspect.Signature([*own[:-1], *added])
    if "__doc__" in vars(cls) and cls.__doc__:
        told = [_arguments(base) for base in reversed(config.__mro__)]
        cls.__doc__ = "\n\n".join([inspect.cleandoc(cls.__doc__), *filter(None, told)])


def _arguments(config: type) -> str:
    """What the docstring of a config says of its fields."""
    doc = inspect.cleandoc(vars(config).get("__doc__") or "")
    before, heading, after = doc.partition("\nArgs:\n")
    return f"Options of {config.__name__}:\n{after}" if heading else ""


def check_name(kind: str, name: str, taken: tuple[str, ...] = ()) -> None:
    """Refuse a name that no column ``map/measure`` could hold, and one that means something else already."""
    if not name.isidentifier():
        raise ValueError(f"{kind} {name!r}: a name is made of letters, digits and underscores")
    if name in taken:
        raise ValueError(f"{kind} {name!r}: {', '.join(taken)} mean something else already; give it another name")


def check_choice(owner: str, field: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse a value outside its choices, with all three in the sentence."""
    if value not in choices:
        raise ValueError(f"{owner}: {field}={value!r} is not one of {', '.join(map(repr, choices))}")
