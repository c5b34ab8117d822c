"""The registry of measures: what is known of each, and what may not be registered."""

from __future__ import annotations

import pytest

import attention_refine as ar
from attention_refine.metrics._registry import COLUMNS, NEEDS, TAKES, described, measures


@pytest.fixture
def registered():
    """What a test registers is gone after it."""
    before = dict(measures.entries)
    yield
    measures.entries.clear()
    measures.entries.update(before)


@pytest.mark.parametrize("name", ar.list_measures())
def test_every_measure_is_described(name):
    made = described(name)
    assert made.title and made.better in (True, False, None)
    assert made.needs in (*NEEDS, "groups", "sanity") and set(made.takes) <= set(TAKES)
    assert made.function is None or made.summary
    assert bool(made.takes) == (made.needs == "forwards")


def test_one_that_is_not_registered_has_its_name_alone():
    found = described("their_own")
    assert (found.title, found.better, found.column) == ("their own", None, "their_own")


def test_what_may_not_be_registered(registered):
    def iou(maps, mask):
        return maps.flatten(1).mean(1)

    good = {"title": "Mine", "better": True, "needs": "map"}
    with pytest.raises(ValueError, match="measure 'iou' is already registered, by iou"):
        ar.register_measure(**good)(iou)
    with pytest.raises(ValueError, match=r"register_measure\('mine'\): needs='mask' is not one of 'labels', 'truth'"):
        ar.register_measure("mine", **{**good, "needs": "mask"})(iou)
    with pytest.raises(ValueError, match=r"register_measure\('mine'\): takes='steps' is not one of 'target'"):
        ar.register_measure("mine", **{**good, "needs": "forwards"}, takes=["steps"])(iou)
    with pytest.raises(ValueError, match="measure 'mine/2': a name is made of letters"):
        ar.register_measure("mine/2", **good)(iou)
    for name in COLUMNS:
        with pytest.raises(ValueError, match=f"measure '{name}': .* mean something else already"):
            ar.register_measure(name, **good)(iou)
