r"""Deep feature reweighting, DFR (Kirichenko et al., *Last Layer Re-Training is Sufficient for Robustness to Spurious
Correlations*, ICLR 2023): a new classifier on the features that are there, from images on which the groups are equal.

The last layer's inputs ``z`` of all images are standardised and a multinomial logistic regression is fitted,

.. math:: \min_{W, b} \frac{1}{n} \sum_i L_{ce}(W z_i + b, y_i) + \frac{\lambda}{2} \|W\|^2

on several drawings of as many images of each group; the mean of the fits, the standardisation folded in, becomes the
model's last layer. The paper penalises :math:`|W|`; with the square the problem is smooth, and solved to the end by
L-BFGS. The paper takes images that the features were not trained on: a held-out part of the validation images, whose
groups are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.classifier import classifiers, last_layer
from ..core.registry import check_choice
from ..data import DataError, Prepared, match_classes, prepare
from ..evaluation.embeddings import embed_dataset
from ..refined import Refined

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
BALANCES = ("group", "class", None)


@dataclass(frozen=True)
class Retrained:
    """What :func:`retrain_classifier` did.

    Attributes:
        l2: the penalty :math:`\\lambda`.
        scores: of each penalty tried, the accuracy on the held-out images: of the worst group with
            ``balance="group"``, the mean over the classes with ``"class"``, else of all; empty where ``l2`` was given.
        per_group: images of each group in a drawing; ``None`` without a balance.
        images: images that were looked at.
    """

    l2: float
    scores: dict[float, float]
    per_group: int | None
    images: int


def retrain_classifier(
    model: Refined,
    dataset: Any,
    balance: str | None = "group",
    *,
    l2: float | str = "auto",
    drawings: int = 10,
    holdout: float = 0.5,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = True,
) -> Retrained:
    """Fit the model's last linear layer anew, in place; everything before it stays as it is.

    Args:
        model: its head, if it has one, goes on acting on the features.
        dataset: a ``datasets`` dataset with canonical columns, or a prepared one without augmentation; best of images
            that the model was not trained on. One label an image.
        balance: ``"group"`` draws as many images of each group (column ``group``), ``"class"`` of each class, ``None``
            takes all images once.
        l2: :math:`\\lambda`, or ``"auto"``: of :data:`PENALTIES` the best on a held-out part, the larger where they tie;
            the classifier is then fitted on all images.
        drawings: fits on different images whose mean is taken; one where all groups are of a size.
        holdout: share of each group that is held out to choose ``l2``.
        seed: of the drawings and the held-out part.
        batch_size: images at a time.
        progress: show a bar.

    Raises:
        DataError: no groups, an image without one, several labels an image, a stream, or fewer than two images of a
            group where ``l2`` is to be chosen.
        ValueError: an option out of range, or a model whose last layer is not one linear layer on a vector an image.
    """
    check_choice("retrain_classifier", "balance", balance, BALANCES)
    if l2 != "auto" and not (isinstance(l2, (int, float)) and l2 > 0):
        raise ValueError(f"retrain_classifier: l2 must be above 0, or 'auto', got {l2!r}")
    if drawings < 1:
        raise ValueError(f"retrain_classifier: drawings must be at least 1, got {drawings}")
    if not 0 < holdout < 1:
        raise ValueError(f"retrain_classifier: holdout must be between 0 and 1, both excluded, got {holdout}")
    layer = _last_linear(model)
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError("a stream cannot be drawn from: load the dataset without streaming")
    if isinstance(dataset, datasets.Dataset):
        dataset = match_classes(prepare(dataset, model.preprocessing, progress=progress), model.labels)
    try:
        vectors, labels = embed_dataset(model, dataset, batch_size, progress=progress)
    except ValueError as error:
        raise DataError(str(error)) from error
    parts = _parts(dataset, labels, balance)
    vectors = vectors.double()
    generator = np.random.default_rng(seed)
    scores: dict[float, float] = {}
    if l2 == "auto":
        kept, held = _divided(parts, holdout, generator)
        for penalty in PENALTIES:  # the strongest first, which is kept where they tie
            weight, bias = _fitted(vectors, labels, kept, balance, penalty, drawings, seed, model.num_labels, layer)
            scores[penalty] = _score(vectors, labels, held, balance, weight, bias)
        l2 = max(scores, key=lambda each: scores[each])
    weight, bias = _fitted(vectors, labels, parts, balance, float(l2), drawings, seed, model.num_labels, layer)
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(bias)
    smallest = min(map(len, parts)) if balance is not None else None
    return Retrained(l2=float(l2), scores=scores, per_group=smallest, images=len(labels))


def _last_linear(model: Refined) -> nn.Linear:
    """The layer that is fitted.

    Raises:
        ValueError: there is none, or more than one.
    """
    net = model.backbone.net
    if model.head is not None and model.head.classifies:
        raise ValueError(
            f"retrain_classifier: the head {model.head.name!r} classifies its own parts, so the backbone's last layer "
            "decides nothing; take a model with another head, or none"
        )
    if len(classifiers(net, model.num_labels)) > 1:
        raise ValueError(f"retrain_classifier: {type(net).__name__} has several classifiers, whose mean it predicts by")
    layer = last_layer(net, model.num_labels)
    if not isinstance(layer, nn.Linear) or layer.out_features != model.num_labels:
        raise ValueError(
            f"retrain_classifier: the last layer, {layer}, is no linear layer of {model.num_labels} classes on one "
            "vector an image; pool its patches with pool='avg', or wrap another network"
        )
    return layer


def _parts(dataset: Prepared, labels: Tensor, balance: str | None) -> list[np.ndarray]:
    """The rows of each group, of each class, or all."""
    if balance is None:
        return [np.arange(len(labels))]
    if balance == "class":
        keys: Any = labels.tolist()
    else:
        keys = getattr(dataset, "groups", None)
        if keys is None:
            raise DataError(
                "balance='group' needs the group of each image, and the dataset has no column 'group': load it with "
                "group_column=, or take balance='class'"
            )
        if None in keys:
            row = list(keys).index(None)
            raise DataError(f"image {row} has no group: fill the column 'group', or leave such images out")
    return [np.array([row for row, key in enumerate(keys) if key == one]) for one in sorted(set(keys))]


def _divided(parts: list[np.ndarray], share: float, generator: np.random.Generator) -> tuple[list, list]:
    """A part of each group to fit on, and the rest of it to choose by: at least one image each."""
    if min(map(len, parts)) < 2:
        raise DataError("a group has one image, and l2='auto' holds some out to choose by: give l2=0.01, for example")
    orders = [generator.permutation(part) for part in parts]
    cuts = [min(max(1, round(share * len(part))), len(part) - 1) for part in parts]
    return [order[cut:] for order, cut in zip(orders, cuts)], [order[:cut] for order, cut in zip(orders, cuts)]


def _fitted(
    vectors: Tensor, labels: Tensor, parts: list[np.ndarray], balance: str | None, l2: float, drawings: int, seed: int,
    classes: int, layer: nn.Module,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weight ``(classes, D)`` and bias ``(classes,)`` on the vectors as they are: the mean over the drawings."""
    generator = np.random.default_rng(seed)
    smallest = min(map(len, parts))
    if balance is None or all(len(part) == smallest for part in parts):
        drawings, smallest = 1, max(map(len, parts))
    everyone = torch.from_numpy(np.concatenate(parts))
    middle, spread = vectors[everyone].mean(0), vectors[everyone].std(0, unbiased=False)
    spread = torch.where(spread > 1e-8, spread, torch.ones_like(spread))  # of a feature that is always the same
    middle = middle if layer.bias is not None else torch.zeros_like(middle)  # a shift needs a bias to go to
    standard = (vectors - middle) / spread
    weights, biases = [], []
    for _ in range(drawings):
        rows = np.concatenate([generator.permutation(part)[:smallest] for part in parts])
        weight, bias = logistic_regression(standard[rows], labels[rows], classes, l2, bias=layer.bias is not None)
        weights.append(weight / spread)
        biases.append(bias - weights[-1] @ middle)
    return torch.stack(weights).mean(0), torch.stack(biases).mean(0)


def logistic_regression(
    vectors: Tensor, labels: Tensor, classes: int, l2: float, bias: bool = True, iterations: int = 500
) -> tuple[Tensor, Tensor]:
    """The minimum of the penalised mean cross-entropy, by L-BFGS in float64 from zero: there is one.

    Args:
        vectors: ``(n, D)``.
        labels: ``(n,)`` below ``classes``.
        l2: above 0, on the weight alone.

    Returns:
        ``(classes, D)`` and ``(classes,)``, zero without ``bias``.
    """
    vectors = vectors.double()
    weight = torch.zeros(classes, vectors.shape[1], dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(classes, dtype=torch.float64, requires_grad=bias)
    optimizer = torch.optim.LBFGS(
        [weight, shift] if bias else [weight], max_iter=iterations, tolerance_grad=1e-9, tolerance_change=1e-14,
        history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(vectors @ weight.T + shift, labels) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), shift.detach()


def _score(
    vectors: Tensor, labels: Tensor, held: list[np.ndarray], balance: str | None, weight: Tensor, bias: Tensor
) -> float:
    right = ((vectors @ weight.T + bias).argmax(1) == labels).double()
    each = [float(right[rows].mean()) for rows in held]
    return min(each) if balance == "group" else sum(each) / len(each)
