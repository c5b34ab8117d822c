"""Models that are judged in several files, quick settings, and what two evaluations alike are."""

from __future__ import annotations

import pytest
import timm
import torch

from attention_refine import shapes, wrap
from attention_refine.evaluation import Evaluation

PREPROCESSING = {"input_size": [3, 64, 64], "crop_pct": 1.0}
QUIET = {"progress": False, "perturbation_images": 4, "perturbation_steps": 4}


def made_model(head=None, seed=1, name="test_resnet", labels=shapes.CLASSES):
    torch.manual_seed(seed)
    net = timm.create_model(name, num_classes=len(labels), **({"img_size": 64} if "vit" in name else {}))
    return wrap(net, head=head, labels=list(labels), preprocessing=PREPROCESSING).eval()


def close(a: Evaluation, b: Evaluation, tolerance=1e-5):
    """The same images with the same values; floats to within ``tolerance``."""
    assert len(a.samples) == len(b.samples)
    for x, y in zip(a.samples, b.samples):
        assert x.keys() == y.keys()
        for key in x:
            if isinstance(x[key], float):
                assert x[key] == pytest.approx(y[key], abs=tolerance), key
            elif key != "logits":
                assert x[key] == y[key], key
