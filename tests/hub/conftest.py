"""The stand-in, and the real client pointed at it."""

from __future__ import annotations

import time

import pytest
import torch
from cases import BY_NAME
from stand_in import TOKEN, StandIn


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A fresh stand-in with a fresh cache; the client is logged in to it and does not sleep between its tries."""
    from huggingface_hub import constants

    with StandIn() as stand_in:
        # read from the environment at import, which an earlier test may have done: subprocesses set HF_ENDPOINT itself
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", stand_in.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(
            "transformers.utils.hub._hf_api", None, raising=False
        )  # one that is kept has the last endpoint
        stand_in.pauses = []
        real = time.sleep
        monkeypatch.setattr(time, "sleep", lambda seconds: (stand_in.pauses.append(seconds), real(min(seconds, 0.01))))
        yield stand_in


@pytest.fixture
def logged_out(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture(scope="session")
def model():
    return BY_NAME["hf-resnet"].wrap(labels=["Bengal cat", "Bombay cat", "beagle", "pug", "boxer"])


@pytest.fixture(scope="session")
def images():
    return BY_NAME["hf-resnet"].images()


@pytest.fixture(scope="session")
def same():
    """Two models give the same logits and maps, bit for bit."""

    def check(first, second, images) -> None:
        with torch.no_grad():
            one, other = first(images), second(images)
        assert torch.equal(one.logits, other.logits)
        assert one.maps is None and other.maps is None or torch.equal(one.maps, other.maps)

    return check


@pytest.fixture(scope="session")
def evaluation(model):
    """Six made images, really evaluated."""
    import numpy as np
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageColumn
    from PIL import Image

    generator = np.random.default_rng(1)
    pictures = [Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(6)]
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=model.labels)})
    dataset = Dataset.from_dict({"image": pictures, "label": [0, 1, 2, 3, 4, 0]}, features=features)
    import attention_refine as ar

    return ar.evaluate(model, dataset, perturbation_images=2, perturbation_steps=3, progress=False)
