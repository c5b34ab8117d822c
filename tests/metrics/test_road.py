"""ROAD: the imputation against a dense system and pytorch-grad-cam's, the scores against a loop."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from attention_refine import metrics

WEIGHTS = {(-1, 0): 1 / 6, (1, 0): 1 / 6, (0, -1): 1 / 6, (0, 1): 1 / 6,
           (-1, -1): 1 / 12, (-1, 1): 1 / 12, (1, -1): 1 / 12, (1, 1): 1 / 12}  # fmt: skip


def dense_imputation(image, removed):
    """One equation a removed pixel, in a dense matrix."""
    channels, height, width = image.shape
    cells = [(r, c) for r in range(height) for c in range(width) if removed[r, c]]
    number = {cell: n for n, cell in enumerate(cells)}
    matrix, right = np.zeros((len(cells),) * 2), np.zeros((len(cells), channels))
    for n, (r, c) in enumerate(cells):
        for (dr, dc), weight in WEIGHTS.items():
            near = (r + dr, c + dc)
            if not (0 <= near[0] < height and 0 <= near[1] < width):
                continue
            matrix[n, n] += weight
            if near in number:
                matrix[n, number[near]] -= weight
            else:
                right[n] += weight * image[:, near[0], near[1]].double().numpy()
    solved = np.linalg.solve(matrix, right)
    filled = image.double().clone()
    for n, (r, c) in enumerate(cells):
        filled[:, r, c] = torch.from_numpy(solved[n])
    return filled


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.99])
def test_imputation_equals_a_dense_solve(share):
    image = torch.randn(3, 11, 9, dtype=torch.float64)
    removed = torch.zeros(99, dtype=torch.bool)
    removed[torch.randperm(99)[: max(1, int(99 * share))]] = True
    removed = removed.view(11, 9)
    before = image.clone()
    torch.testing.assert_close(metrics.impute(image, removed), dense_imputation(image, removed), atol=1e-10, rtol=1e-10)
    assert torch.equal(image, before)


def test_imputation_keeps_what_is_known_and_constants():
    image = torch.full((3, 8, 8), 2.5)
    removed = torch.zeros(8, 8, dtype=torch.bool)
    removed[:7] = True
    torch.testing.assert_close(metrics.impute(image, removed), image)
    assert torch.equal(metrics.impute(image, torch.zeros(8, 8, dtype=torch.bool)), image)
    with pytest.raises(ValueError, match="every pixel"):
        metrics.impute(image, torch.ones(8, 8, dtype=torch.bool))


def test_imputation_equals_pytorch_grad_cam():
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road")
    image, mask = torch.randn(3, 16, 16), (torch.rand(16, 16) > 0.6).float()
    theirs = peer.NoisyLinearImputer(noise=0.0)(image, mask)  # there 1 keeps and 0 removes
    torch.testing.assert_close(metrics.impute(image, mask == 0), theirs.float(), atol=1e-5, rtol=1e-5)


def test_scores_equal_a_loop(net, images, maps):
    fractions = (0.25, 0.5)
    result = metrics.road(net, images, maps, fractions=fractions)
    least = metrics.road(net, images, maps, fractions=fractions, order="least")
    quiet = copy.deepcopy(net).double().eval()
    noise = torch.randn(3, 20, 28, generator=torch.Generator().manual_seed(0)).double()
    for sample in range(4):
        resized = torch.nn.functional.interpolate(maps[[sample]].double(), size=(20, 28), mode="bilinear")[0, 0].float()
        order = np.argsort(-resized.flatten().numpy(), kind="stable")
        target = int(result.target[sample])
        for which, ranked in ((result, order), (least, order[::-1])):
            for column, fraction in enumerate(fractions):
                removed = torch.zeros(560, dtype=torch.bool)
                removed[ranked[: int(fraction * 560)].copy()] = True
                removed = removed.view(20, 28)
                shown = dense_imputation(images[sample], removed) + 0.01 * noise * removed
                with torch.no_grad():
                    logits = quiet(shown[None])[0]
                assert which.score[sample, column].item() == pytest.approx(logits.softmax(0)[target].item(), abs=1e-5)
                assert which.hit[sample, column].item() == (int(logits.argmax()) == target)
    combined = metrics.road_combined(net, images, maps, fractions=fractions)
    torch.testing.assert_close(combined, ((least.score - result.score) / 2).mean(1), atol=1e-6, rtol=1e-5)
    assert net.training


def test_batch_composition(net, images, maps):
    together = metrics.road_combined(net, images, maps)
    for sample in range(4):
        alone = metrics.road_combined(net, images[[sample]], maps[[sample]], batch_size=3)
        torch.testing.assert_close(alone[0], together[sample], atol=1e-6, rtol=1e-5)


def test_bad_input(net, images, maps):
    for fractions in ((), (0.0,), (1.0,)):
        with pytest.raises(ValueError, match="fractions"):
            metrics.road(net, images, maps, fractions=fractions)
    with pytest.raises(ValueError, match="order"):
        metrics.road(net, images, maps, order="up")
    with pytest.raises(ValueError, match=r"samples \[0"):
        metrics.road(net, images, maps * torch.nan)
