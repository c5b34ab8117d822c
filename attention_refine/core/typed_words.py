"""Plain values from words that a person typed, on the command line or in a YAML file.

Text stays as it was typed: a folder may be called ``cats #2`` and a precision ``no``. YAML is read by the words of its
version 1.2: only ``true`` and ``false`` are truths, ``1e-4`` is a number, and ``010`` is ten.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import yaml

_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$")
NOTHING = ("", "null", "none", "~")


class _Words(yaml.SafeLoader):
    """YAML whose words are text, but for null; a key that is there twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


class _Loader(_Words):
    """YAML with the truths, numbers and nothing of its version 1.2: no octal numbers, dates, or ``yes`` and ``off``."""


def _resolvers(*tags: str) -> dict[str | None, list]:
    """Those of YAML 1.1 for some tags."""
    own = [f"tag:yaml.org,2002:{tag}" for tag in tags]
    found = yaml.SafeLoader.yaml_implicit_resolvers.items()
    return {first: [(tag, pattern) for tag, pattern in of if tag in own] for first, of in found}


_Words.yaml_implicit_resolvers = _resolvers("null", "merge")
_Loader.yaml_implicit_resolvers = _resolvers("null", "merge")
for _tag, _pattern, _first in (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"[-+]?\d+$", "-+0123456789"),
    ("float", r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$", "-+."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def read(text: str) -> Any:
    """What YAML text says.

    Raises:
        yaml.YAMLError: it is not YAML, or has a key twice.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)


def read_fields(text: str, hints: Mapping[str, Mapping[str, Any]]) -> Any:
    """:func:`read`, the fields that are text as they were typed: ``revision: 0123`` is no number there.

    Args:
        hints: the type of each field, by section.

    Raises:
        yaml.YAMLError: as :func:`read`.
    """
    values, words = read(text), yaml.load(text, Loader=_Words)  # noqa: S506 (a SafeLoader)
    for section, fields in hints.items() if isinstance(values, dict) else ():
        given = values.get(section)
        for name in given.keys() & fields.keys() if isinstance(given, dict) else ():
            kinds, typed = _kinds(fields[name]), words[section][name]
            one = isinstance(typed, str) and set(kinds) <= {str, type(None)}
            several = isinstance(typed, list) and list[str] in kinds and all(isinstance(each, str) for each in typed)
            if one or several:
                given[name] = typed
    return values


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def value_of(text: str, hint: Any) -> Any:
    """The words of a command line as a value for a field of the type ``hint``.

    A list is ``[a, b]``, or ``a,b``, or one entry. Nothing is ``null`` or ``none``, where the field may be empty. What
    does not fit the type stays text, for the field to refuse.

    Raises:
        yaml.YAMLError: ``[...]`` or ``{...}`` that is not YAML.
    """
    kinds = _kinds(hint)
    lists = [kind for kind in kinds if typing.get_origin(kind) is list]
    if type(None) in kinds and text.strip().lower() in NOTHING:
        return None
    if text.lstrip().startswith("{") and (dict in kinds or lists):
        found = read(text)
        return [found] if lists and dict not in kinds else found
    if lists:
        if text.lstrip().startswith("["):
            return read(text)
        (entry,) = typing.get_args(lists[0])
        return [value_of(each.strip(), entry) for each in text.split(",") if each.strip()]
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if (int in kinds or float in kinds) and _NUMBER.match(text):
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    if str in kinds or bool in kinds:
        return text
    return read(text)
