"""Attention consistency from its equations: an image at a time in float64, plain autograd, a guided rule of its own."""

from __future__ import annotations

import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

GUIDED = [False]  # whether gradients taken now are guided
LOCATIONS = (-2, -1)  # over which Grad-CAM's weights are means: those of each frame of a clip


class _Activation(torch.autograd.Function):
    """ReLU or GELU whose gradient drops what is negative while GUIDED, and can be differentiated again."""

    @staticmethod
    def forward(ctx, x, kind):
        ctx.save_for_backward(x)
        ctx.kind = kind
        return x * (x > 0) if kind == "relu" else x * _cumulative(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        if GUIDED[0]:
            gradient = gradient * (gradient > 0)
        if ctx.kind == "relu":
            return gradient * (x > 0), None
        return gradient * (_cumulative(x) + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)), None


def _cumulative(x):
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


@contextmanager
def own_activations():
    """Modules and networks that call ``F.relu`` or ``F.gelu`` call the above."""
    known = F.relu, F.gelu
    F.relu = lambda x, inplace=False: _Activation.apply(x, "relu")
    F.gelu = lambda x, approximate="none": _Activation.apply(x, "gelu")
    try:
        yield
    finally:
        F.relu, F.gelu = known


def run(net: nn.Module, site: str, x):
    """Logits of one image, and the feature at its site."""
    seen = []
    handle = net.get_submodule(site).register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        with own_activations(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            logits = net(x[None])
    finally:
        handle.remove()
    return logits[0], seen[0]


def top(net, x) -> int:
    with torch.no_grad():
        return int(net(x[None]).argmax())


def grad_cam(net, site, x, c):
    """``(h, w)``, or ``(t, h, w)``."""
    logits, feature = run(net, site, x)
    (gradient,) = torch.autograd.grad(logits[c], feature, create_graph=True)
    if feature.ndim == 3:  # tokens, the first of which is the class token
        side = math.isqrt(feature.shape[1] - 1)
        feature, gradient = (t[:, 1:].transpose(1, 2).unflatten(2, (side, side)) for t in (feature, gradient))
    total = 0.0
    for k in range(feature.shape[1]):
        weight = gradient[0, k].mean(LOCATIONS, keepdim=True)
        total = total + weight * feature[0, k]
    return total


def guided_backprop(net, site, x, c):
    x = x if x.requires_grad else x.clone().requires_grad_()
    logits, _ = run(net, site, x)
    GUIDED[0] = True
    try:
        (gradient,) = torch.autograd.grad(logits[c], x, create_graph=True)
    finally:
        GUIDED[0] = False
    return gradient.abs().sum(0)


def mask_of(guide, norm="std", slope=8.0, offset=0.5):
    mean = guide.mean()
    variance = ((guide - mean) ** 2).mean()
    argument = {
        "std": lambda: (guide - mean) / variance.sqrt(),
        "variance": lambda: (guide - mean) / variance,
        "code": lambda: slope * (guide - (mean + offset * variance.sqrt())),
    }[norm]()
    return 1 / (1 + torch.exp(-argument))


def upsampled(map_, size):
    mode = "bilinear" if map_.ndim == 2 else "trilinear"
    return F.interpolate(map_[None, None], size, mode=mode, align_corners=False)[0, 0]


def pooled(fine, grid, pool):
    """Cells of the coarse grid that begin and end at whole pixels, overlapping where the sides do not divide."""
    for axis, cells in enumerate(grid):
        length = fine.shape[axis]
        parts = []
        for i in range(cells):
            part = fine.narrow(axis, i * length // cells, -((i + 1) * -length // cells) - i * length // cells)
            parts.append(part.amax(axis) if pool == "max" else part.mean(axis))
        fine = torch.stack(parts, axis)
    return fine


def both(net, site, x, c, matching, pool="max", norm="std", **mask):
    """The two maps that a matching compares."""
    cam, guided = grad_cam(net, site, x, c), guided_backprop(net, site, x, c)
    size = x.shape[1:]
    if matching == "mask":
        return cam, grad_cam(net, site, mask_of(guided, norm, **mask) * x, c)
    if matching == "cam_mask":
        return guided, guided_backprop(net, site, mask_of(upsampled(cam, size), norm, **mask) * x, c)
    if matching == "upsampling":
        return upsampled(cam, size), guided
    return cam, pooled(guided, cam.shape, pool)


def standard(a):
    return (a - a.mean()) / ((a - a.mean()) ** 2).mean().sqrt()


def pearson(a, b):
    return (standard(a) * standard(b)).mean()


def cross_correlation(a, b):
    return ((1 / (1 + torch.exp(-standard(a)))) * (1 / (1 + torch.exp(-standard(b))))).mean()


def ssim(a, b):
    a, b = ((m - m.min()) / (m.max() - m.min()) for m in (a, b))
    if a.ndim == 3:
        return torch.stack([_ssim(p, q) for p, q in zip(a, b)]).mean()
    return _ssim(a, b)


def _ssim(a, b):
    side = min(11, (min(a.shape) - 1) // 2 * 2 + 1)
    bell = torch.exp(-((torch.arange(side, dtype=a.dtype) - side // 2) ** 2) / (2 * 1.5**2))
    weights = torch.outer(bell, bell)
    weights = weights / weights.sum()
    p, q = (m.unfold(0, side, 1).unfold(1, side, 1) for m in (a, b))

    def mean(values):
        return (values * weights).sum((-2, -1))

    mp, mq = mean(p), mean(q)
    vp, vq = mean((p - mp[..., None, None]) ** 2), mean((q - mq[..., None, None]) ** 2)
    together = mean((p - mp[..., None, None]) * (q - mq[..., None, None]))
    index = (2 * mp * mq + 1e-4) * (2 * together + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
    return index.mean()


CORRELATIONS = {"pearson": pearson, "cross_correlation": cross_correlation, "ssim": ssim}
