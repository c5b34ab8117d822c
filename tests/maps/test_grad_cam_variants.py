"""Grad-CAM++, LayerCAM, Eigen-CAM and Score-CAM, each against a loop or a decomposition of another kind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attention_refine import maps
from attention_refine.maps.eigen_cam import principal_map


def close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert float(((found - expected).abs().amax() / expected.abs().amax()).detach()) <= tolerance


def by_hand(cnn, pixels, target):
    feature = cnn.stage(cnn.stem(pixels)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(cnn.fc(feature.square().mean((2, 3)))[:, target].sum(), feature)
    return feature.detach().double(), gradient.double()


class Squared(nn.Module):
    """A head that is not linear, so that gradients differ between locations."""

    def __init__(self, cnn):
        super().__init__()
        self.stem, self.stage, self.fc = cnn.stem, cnn.stage, cnn.fc

    def forward(self, pixel_values):
        return self.fc(self.stage(self.stem(pixel_values)).square().mean((2, 3)))


def test_grad_cam_plus_plus_by_a_loop(cnn):
    pixels = torch.randn(2, 3, 32, 32)
    feature, gradient = by_hand(cnn, pixels, 2)
    expected = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    for b in range(2):
        for k in range(12):
            weight, total = 0.0, float(feature[b, k].sum())
            for g in gradient[b, k].flatten().tolist():
                if g != 0:
                    weight += g**2 / (2 * g**2 + total * g**3) * max(g, 0.0)
            expected[b, 0] += weight * feature[b, k]
    close(maps.grad_cam_plus_plus(Squared(cnn), pixels, 2, "stage"), expected.float(), 1e-4)


def test_layer_cam_by_a_loop(cnn):
    pixels = torch.randn(2, 3, 32, 32)
    feature, gradient = by_hand(cnn, pixels, 2)
    expected = sum(gradient[:, k].clamp(min=0) * feature[:, k] for k in range(12))[:, None]
    close(maps.layer_cam(Squared(cnn), pixels, 2, "stage"), expected.float())
    assert (maps.layer_cam(cnn, pixels, relu=True) >= 0).all()


@pytest.mark.parametrize("channels, locations", [(12, 9), (3, 25), (4, 4)])
@pytest.mark.parametrize("centre", [False, True])
def test_eigen_cam_is_the_first_singular_vector(channels, locations, centre):
    feature = torch.randn(2, channels, locations, dtype=torch.float64)
    found = principal_map(feature, centre)
    matrix = (feature - feature.mean(2, keepdim=True) if centre else feature).transpose(1, 2)  # (B, N, C)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    expected = matrix @ v[:, 0, :, None]
    sign = torch.sign((expected[..., 0] * found[:, 0]).sum(1))
    close(found[:, 0], expected[..., 0] * sign[:, None], 1e-8)
    close(principal_map(-feature, centre), found, 1e-8)  # the sign is of the map, not of the solver's mood


def test_eigen_cam_of_low_rank_features_has_finite_gradients():
    base = torch.rand(2, 1, 9, dtype=torch.float64)
    feature = (base * torch.rand(2, 6, 1, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(principal_map(feature).square().sum(), feature)
    assert gradient.isfinite().all()
    constant = torch.zeros(1, 4, 9, requires_grad=True)
    found = principal_map(constant)
    assert (found == 0).all()
    assert torch.autograd.grad(found.sum(), constant)[0].isfinite().all()


@pytest.mark.parametrize("channels, locations", [(6, 4), (3, 8)])
def test_eigen_cam_gradient(channels, locations):
    feature = 0.1 * torch.rand(2, channels, locations, dtype=torch.float64)  # small: eigenvalues close together
    assert torch.autograd.gradcheck(principal_map, feature.requires_grad_())


def test_score_cam_by_a_loop(cnn):
    pixels = torch.randn(2, 3, 32, 32)
    found = maps.score_cam(cnn, pixels, 1, "stage")
    with torch.no_grad():
        feature = cnn.stage(cnn.stem(pixels))
        expected = torch.zeros(2, 1, 8, 8)
        for b in range(2):
            blank = cnn(torch.zeros(1, 3, 32, 32)).softmax(1)[0, 1]
            for k in range(12):
                mask = feature[b, k]
                if mask.max() > mask.min():
                    mask = (mask - mask.min()) / (mask.max() - mask.min())
                    mask = F.interpolate(mask[None, None], (32, 32), mode="bilinear", align_corners=False)
                    expected[b, 0] += (cnn(pixels[b : b + 1] * mask).softmax(1)[0, 1] - blank) * feature[b, k]
    close(found, expected, 1e-4)
    close(maps.score_cam(cnn, pixels, 1, "stage", top_channels=12), found)
