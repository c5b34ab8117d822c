"""``zero_shot``: a network that compares images with texts, as a model whose classes are the texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .backbones.zero_shot import load_zero_shot
from .model import RefinedModel
from .wrapping import wrap


def zero_shot(
    source: str | Path, texts: Sequence[str], *, template: str = "{}", revision: str | None = None
) -> RefinedModel:
    """A model that says which of several texts an image shows, and where it looks for any of them; nothing is trained.

    It is used as any other: ``model.show("photo.jpg", target="a sofa")``, ``evaluate``, ``audit``. A map of a text that
    is no class: ``model.explain(pixels, prompt="the ears of a cat")``. To train a classifier on the network's features
    and save it, :func:`attention_refine.wrap` the same id with ``labels``.

    Args:
        source: a Hub id or a folder of CLIP, SigLIP, MetaCLIP 2, AltCLIP or ALIGN, as transformers saves them. No code
            of a repository is run, and weights are read from safetensors alone.
        texts: two or more, the classes: ``["a cat", "a sofa"]``. Probabilities are among them.
        template: what the network reads of each, with ``{}`` for the text: ``"a photo of {}"``.
        revision: a branch, tag or commit of the Hub's.

    Returns:
        A model without a head, in evaluation mode; it cannot be saved.

    Raises:
        ValueError: fewer than two texts, one twice, one too long, a template without ``{}``, or a model of another kind.
        OSError: the model cannot be fetched, or has no safetensors.
    """
    if isinstance(texts, str) or len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f"texts must be two or more texts to tell apart, such as ['a cat', 'a sofa'], got {texts!r}: a probability "
            "needs something else that the image could show"
        )
    if "{}" not in template:
        raise ValueError(f"template must hold {{}} where the text goes, such as 'a photo of {{}}', got {template!r}")
    net, preprocessing = load_zero_shot(source, [template.replace("{}", text) for text in texts], revision)
    return wrap(net, labels=list(texts), preprocessing=preprocessing).eval()
