"""Every timm module and every Hugging Face image classifier: ``pytest -m sweep tests/backbones/test_sweep.py``."""

from __future__ import annotations

import pytest

from attention_refine.backbones.families import TIMM, TRANSFORMERS, examples
from attention_refine.support_table import row

# What is refused as it is, and works with the patches pooled: no module carries everything the logits are made of.
POOLED = {"timm/efficientvim", "timm/tnt", "transformers/cvt"}


@pytest.mark.sweep
@pytest.mark.parametrize("example", list(examples()), ids=lambda e: f"{e.library}/{e.family}")
def test_a_family_obeys_the_laws(example):
    found, name = row(example), f"{example.library}/{example.family}"
    assert found.findings is not None, found.why_not
    assert found.findings.faults == []
    assert bool(found.options) == (name in POOLED)


def test_every_timm_module_is_in_the_sweep():
    from timm.models._registry import _module_to_models

    assert set(TIMM) == {module for module, models in _module_to_models.items() if models}


def test_every_transformers_image_classifier_is_in_the_sweep_or_known_to_be_none():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as names

    assert set(names) - set(TRANSFORMERS) == {"dinat", "imagegpt", "perceiver", "shieldgemma2", "siglip2"}
