"""The registry of maps: what is known of each before it is called, and what may not be registered."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attention_refine as ar
from attention_refine.maps._registry import KINDS, TAKEN, maps


@pytest.fixture
def registered():
    """What a test registers is gone after it."""
    before = dict(maps.entries)
    yield
    maps.entries.clear()
    maps.entries.update(before)


@pytest.mark.parametrize("name", ar.list_maps())
def test_every_map_is_a_function_for_people_with_a_line_on_it(name):
    made = ar.maps.by_name(name)
    assert made.function is getattr(ar.maps, name) and made.kind in KINDS
    assert made.summary.endswith((".", ":")) and "site" not in made.options
    assert made.differentiable or made.kind == "sampled"


def test_a_map_is_called_as_its_function_is(registered):
    @ar.register_map("brightness", kind="pixels", per_class=False)
    def bright(net, pixel_values, power=1.0):
        """How bright a pixel is."""
        return pixel_values.mean(1, keepdim=True) ** power

    made, pixels = ar.maps.by_name("brightness"), torch.rand(2, 3, 4, 4)
    assert torch.equal(made(nn.Identity(), pixels, power=2.0), bright(None, pixels, 2.0))
    assert made.options == ["power"] and made.summary == "How bright a pixel is." and "brightness" in ar.list_maps()
    with pytest.raises(ValueError, match="brightness is the same for every class, so target=1 is refused"):
        made(nn.Identity(), pixels, 1)


def test_what_may_not_be_registered(registered):
    def grad_cam(net, pixel_values, target=None):
        return pixel_values

    with pytest.raises(ValueError, match="map 'grad_cam' is already registered, by grad_cam"):
        ar.register_map(kind="site")(grad_cam)
    with pytest.raises(ValueError, match=r"register_map\('mine'\): kind='pixel' is not one of 'site', 'pixels'"):
        ar.register_map("mine", kind="pixel")(grad_cam)
    with pytest.raises(ValueError, match="map 'mine/2': a name is made of letters"):
        ar.register_map("mine/2", kind="site")(grad_cam)
    for name in TAKEN:
        with pytest.raises(ValueError, match=f"map '{name}': .* mean something else already"):
            ar.register_map(name, kind="site")(grad_cam)
    assert set(ar.list_maps()) == {name for name in ar.maps.__all__ if name in maps.entries}
