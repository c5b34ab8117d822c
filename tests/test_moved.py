"""Modules under their old names: one version long they are the modules that they have become, with a warning."""

from __future__ import annotations

import importlib
import sys

import pytest

from attention_refine.moved import KEPT, MOVED, OldNames, install


@pytest.mark.parametrize("old", sorted(set(MOVED) - KEPT))
def test_an_old_name_is_the_new_module_and_says_so(old):
    name, new = f"attention_refine.{old}", f"attention_refine.{MOVED[old]}"
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=rf"{name} is {new} now; the old name goes with version"):
        found = importlib.import_module(name)
    assert found is importlib.import_module(new)
    assert found.__name__ == found.__spec__.name == new


@pytest.mark.parametrize("short", sorted(KEPT))
def test_a_short_name_that_stays_is_the_module_and_says_nothing(short, recwarn):
    sys.modules.pop(f"attention_refine.{short}", None)
    found = importlib.import_module(f"attention_refine.{short}")
    assert found is importlib.import_module(f"attention_refine.{MOVED[short]}")
    assert not [warning for warning in recwarn if warning.category is DeprecationWarning]


def test_no_old_name_hides_what_its_package_offers():
    """An import sets the module on its package: over a function of that name, were there one."""
    for old in MOVED:
        package, _, name = old.rpartition(".")
        assert name not in getattr(importlib.import_module(f"attention_refine.{package}".rstrip(".")), "__all__", ()), (
            old
        )


def test_other_names_are_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("attention_refine.metrics.drops")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("metrics.drop")


def test_installed_once():
    install()
    assert sum(isinstance(finder, OldNames) for finder in sys.meta_path) == 1
