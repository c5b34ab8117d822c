"""Plain values from words that a person typed, on the command line or in a YAML file.

Text stays as it was typed: a folder may be called ``cats #2`` and a precision ``no``. YAML is read by the words of its
version 1.2: only ``true`` and ``false`` are truths, and ``1e-4`` is a number.
"""

from __future__ import annotations

import re
import types
import typing
from typing import Any

import yaml

_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$")
NOTHING = ("", "null", "none", "~")


class _Loader(yaml.SafeLoader):
    """YAML without the truths that are words (yes, no, on, off), and with numbers such as 1e-4."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read(text: str) -> Any:
    """What YAML text says.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)


def value_of(text: str, hint: Any) -> Any:
    """The words of a command line as a value for a field of the type ``hint``.

    A list is ``[a, b]``, or ``a,b``, or one entry. Nothing is ``null`` or ``none``, where the field may be empty. What
    does not fit the type stays text, for the field to refuse.

    Raises:
        yaml.YAMLError: ``[...]`` or ``{...}`` that is not YAML.
    """
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
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
