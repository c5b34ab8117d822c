"""The recipe's sections as options: made of their fields, read back as overrides, a wrong one named."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import yaml


def add_sections(parser: argparse.ArgumentParser, words: list[str], only: tuple[str, ...] | None = None) -> None:
    """An option for every field of the recipe's sections; one that is not given leaves the file's value.

    None where the command is not among the words of the command line: the recipe takes seconds to import.
    """
    if parser.prog.split()[-1] not in words:
        return
    from ..recipe import Recipe

    for section, kind in Recipe.sections().items():
        if only and section not in only:
            continue
        group = parser.add_argument_group(section)
        hints = typing.get_type_hints(kind)
        for each in fields(kind):
            default = getattr(kind(), each.name)
            group.add_argument(
                f"--{section}.{each.name}",
                dest=f"{section}.{each.name}",
                metavar="VALUE",
                default=argparse.SUPPRESS,
                type=partial(_value, hints[each.name]),
                help=f"{each.metadata['help']}{_listed(each.metadata)} (default: {default})".replace("%", "%%"),
            )


def _listed(metadata: Mapping[str, Any]) -> str:
    """The names that an option takes, with those of one's own."""
    return f"; {', '.join(metadata['names']())}" if "names" in metadata else ""


def _value(hint: Any, text: str) -> Any:
    """The value of an option's field from the words that were typed."""
    from ..core.typed_words import value_of

    try:
        return value_of(text, hint)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a list [a, b] nor keys and values {{a: 1}}") from error


def unknown(left: list[str]) -> str:
    """What to say of words that are no options."""
    from ..core.options import suggestion
    from ..recipe import Recipe

    word = next((each for each in left if each.startswith("-")), left[0]).partition("=")[0]
    section, dot, name = word.lstrip("-").partition(".")
    kind = Recipe.sections().get(section)
    if dot and kind is not None:
        return f"unknown option {word}: {suggestion(name, kind)}"
    found = [f"--{at}.{f.name}" for at, each in Recipe.sections().items() for f in fields(each) if f.name == section]
    found += [f"--{at}.{each.KNOWN_AS[section]}" for at, each in Recipe.sections().items() if section in each.KNOWN_AS]
    hint = f": did you mean {found[0]}?" if found and word.startswith("-") else ""
    return f"unrecognized arguments: {' '.join(left)}{hint}"


def read_overrides(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for key, value in vars(arguments).items():
        section, dot, name = key.partition(".")
        if dot:
            out.setdefault(section, {})[name] = value
    return out
