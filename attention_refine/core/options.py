"""Options as dataclasses: each field with its help, its type and its rules, checked when given.

The command line is generated from these fields; a YAML section is one of these classes.
"""

from __future__ import annotations

import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

Function = TypeVar("Function", bound=Callable[..., Any])


def option(default: Any, help: str, **rules: Any) -> Any:
    """A field with its help text and rules.

    Rules are ``choices``, and ``at_least``, ``above``, ``at_most``, ``below`` for numbers; others are kept in the field's
    metadata for whoever asks.
    """
    metadata = {"help": help, **rules}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Options:
    """Base of a section of options.

    Attributes:
        KNOWN_AS: what people type elsewhere for a field, for a suggestion.

    Raises:
        ValueError: a value of the wrong type or out of range; the message names field, value and what is accepted.
        TypeError: a keyword that is no field; the closest one is suggested.
    """

    KNOWN_AS: ClassVar[dict[str, str]] = {}

    def __new__(cls, *values: Any, **named: Any) -> Self:
        for key in named:
            if key not in (each.name for each in fields(cls)):
                raise TypeError(f"{cls.__name__}: unknown option {key!r}: {suggestion(key, cls)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for each in fields(self):
            value = typed(each.name, getattr(self, each.name), hints[each.name])
            _check_rules(each.name, value, each.metadata)
            setattr(self, each.name, value)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values; ``from_dict`` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """An instance from plain values.

        Raises:
            ValueError: a key that is no field (the closest one is suggested), or a value that the field refuses.
        """
        names = [each.name for each in fields(cls)]
        for key in values:
            if key not in names:
                raise ValueError(f"unknown option {key!r}: {suggestion(str(key), cls)}")
        return cls(**values)


def taking(config: type[Options]) -> Callable[[Function], Function]:
    """The fields of a config in the signature of a function that takes them as ``**options``: for ``help`` and notebooks."""

    def show(function: Function) -> Function:
        shown: Any = function
        *own, _ = inspect.signature(function).parameters.values()
        added = [each.replace(kind=each.KEYWORD_ONLY) for each in inspect.signature(config).parameters.values()]
        shown.__signature__ = inspect.signature(function).replace(parameters=[*own, *added])
        return function

    return show


def suggestion(key: str, kind: type[Options]) -> str:
    """``did you mean 'epochs'?`` for a name that is no field of ``kind``; all fields where none is close."""
    names = [each.name for each in fields(kind)]
    close = [kind.KNOWN_AS.get(key)] if key in kind.KNOWN_AS else difflib.get_close_matches(key, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}"


_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def typed(name: str, value: Any, hint: Any) -> Any:
    """``value`` if it is of the field's type (a whole number passes for a float and becomes one)."""
    accepted = _kinds(hint)
    for kind in accepted:
        if typing.get_origin(kind) is list:
            if isinstance(value, (list, tuple)):
                (inner,) = typing.get_args(kind)
                return [typed(name, item, inner) for item in value]
        elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
        elif kind is bool and str not in accepted and isinstance(value, str) and value.lower() in _TRUTHS:
            return _TRUTHS[value.lower()]
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    words = {type(None): "None", int: "a whole number", float: "a finite number", str: "text", bool: "true or false",
             dict: "keys and values"}  # fmt: skip
    wanted = " or ".join(words.get(kind, "a list") for kind in accepted)
    remedy = ""
    if isinstance(value, str) and float in accepted and _reads_as_number(value):
        remedy = f"; remove the quotes, or in YAML write {float(value)!r} with a decimal point"
    raise ValueError(f"{name}={value!r} is not accepted: it must be {wanted}{remedy}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _reads_as_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_rules(name: str, value: Any, rules: typing.Mapping[str, Any]) -> None:
    if value is None:
        return
    if "choices" in rules and value not in rules["choices"]:
        raise ValueError(f"{name}={value!r} is not accepted: it must be one of {', '.join(rules['choices'])}")
    tests = {
        "at_least": (lambda number, bound: number >= bound, "at least"),
        "above": (lambda number, bound: number > bound, "above"),
        "at_most": (lambda number, bound: number <= bound, "at most"),
        "below": (lambda number, bound: number < bound, "below"),
    }
    given = {rule: rules[rule] for rule in tests if rule in rules}
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, (int, float)) and not all(tests[rule][0](number, bound) for rule, bound in given.items()):
            words = " and ".join(f"{tests[rule][1]} {bound}" for rule, bound in given.items())
            raise ValueError(f"{name}={value!r} is not accepted: it must be {words}")
