"""The map inside attention, against attention computed by hand in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from attention_refine.backbones.attention import ClassRowGain
from attention_refine.layouts import Layout

BATCH, HEADS, WIDTH, GRID = 2, 3, 8, (2, 4)
CELLS = GRID[0] * GRID[1]


def by_hand(q, k, v, gain, row, mask=None):
    """Attention one query at a time; in query ``row`` the weights of the last ``h*w`` keys are scaled by the gain."""
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                weights = torch.exp(k[b, h] @ q[b, h, i] / q.shape[-1] ** 0.5 + (0 if mask is None else mask[b, 0, i]))
                if i == row:
                    weights[-CELLS:] = weights[-CELLS:] * gain[b].flatten()
                out[b, h, i] = (weights / weights.sum()) @ v[b, h]
    return out


def fused(q, k, v, mask=None):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def eager(q, k, v, mask=None):
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return (logits if mask is None else logits + mask).softmax(-1) @ v


def functional(q, k, v, mask=None):
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return F.softmax(input=logits if mask is None else logits + mask, dim=-1) @ v


def draw(queries, keys):
    torch.manual_seed(0)
    q, k, v = (torch.randn(BATCH, HEADS, n, WIDTH, dtype=torch.float64) for n in (queries, keys, keys))
    return q, k, v, torch.rand(BATCH, 1, *GRID, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("attend", [fused, eager, functional])
@pytest.mark.parametrize("prefix", [1, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_the_class_row_of_self_attention_is_scaled_and_no_other(attend, prefix, masked):
    q, k, v, gain = draw(prefix + CELLS, prefix + CELLS)
    mask = torch.randn(BATCH, 1, prefix + CELLS, prefix + CELLS, dtype=torch.float64) if masked else None
    with ClassRowGain(gain, Layout("NLC", prefix)) as mode:
        out = attend(q, k, v, mask)
    assert mode.calls == 1
    # the map is float32, whatever the attention's type
    torch.testing.assert_close(out, by_hand(q, k, v, gain, 0, mask), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("attend", [fused, eager, functional])
@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("prefix", [0, 1])
def test_a_query_of_its_own_over_the_patches_is_scaled(attend, before, prefix):
    q, k, v, gain = draw(1, before + CELLS)
    with ClassRowGain(gain, Layout("NLC", prefix)) as mode:
        out = attend(q, k, v)
    assert mode.calls == 1
    torch.testing.assert_close(out, by_hand(q, k, v, gain, 0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [torch.float64, torch.bool])
def test_fused_attention_keeps_its_own_mask(kind):
    q, k, v, gain = draw(1 + CELLS, 1 + CELLS)
    mask = torch.zeros(BATCH, 1, 1 + CELLS, 1 + CELLS, dtype=torch.float64)
    mask[:, :, :, 3] = float("-inf")
    with ClassRowGain(gain, Layout("NLC", 1)):
        out = fused(q, k, v, mask if kind is torch.float64 else mask == 0)
    torch.testing.assert_close(out, by_hand(q, k, v, gain, 0, mask), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("attend", [fused, eager])
def test_a_gain_of_one_changes_no_bit(attend):
    q, k, v, gain = (x.float() for x in draw(1 + CELLS, 1 + CELLS))
    plain = attend(q, k, v)
    with ClassRowGain(torch.ones_like(gain), Layout("NLC", 1)) as mode:
        assert torch.equal(attend(q, k, v), plain) and mode.calls == 1
    mixed = gain.clone()
    mixed[0] = 1
    with ClassRowGain(mixed, Layout("NLC", 1)):
        out = attend(q, k, v)
    assert torch.equal(out[0], plain[0]) and not torch.equal(out[1], plain[1])


@pytest.mark.parametrize(
    "queries, keys, prefix",
    [
        (CELLS, CELLS, 0),
        (CELLS, CELLS, 1),
        (2 + CELLS, 2 + CELLS, 1),
        (1, CELLS - 1, 1),
        (1, CELLS + 16, 1),
        (2, 1 + CELLS, 1),
    ],
)
def test_other_attention_is_left_alone(queries, keys, prefix):
    q, k, v, gain = draw(queries, keys)
    for attend in (fused, eager):
        with ClassRowGain(gain, Layout("NLC", prefix)) as mode:
            out = attend(q, k, v)
        assert mode.calls == 0 and torch.equal(out, attend(q, k, v))


def test_softmax_over_classes_is_left_alone():
    logits = torch.randn(BATCH, 1 + CELLS)
    with ClassRowGain(torch.rand(BATCH, 1, *GRID), Layout("NLC", 1)) as mode:
        logits.softmax(-1)
    assert mode.calls == 0


def test_the_gain_receives_a_gradient():
    q, k, v, gain = draw(1 + CELLS, 1 + CELLS)
    gain = gain.requires_grad_()

    def run(gain):
        with ClassRowGain(gain, Layout("NLC", 1)):
            return eager(q, k, v)[..., 0, :].double()

    (gradient,) = torch.autograd.grad(run(gain).sum(), gain)
    step = 1e-3
    for index in [(0, 0, 1, 2), (1, 0, 0, 0)]:
        moved = torch.zeros_like(gain)
        moved[index] = step
        slope = (run(gain.detach() + moved).sum() - run(gain.detach() - moved).sum()) / (2 * step)
        torch.testing.assert_close(gradient[index], slope, rtol=1e-3, atol=1e-5)


def test_a_gain_of_zero_hides_a_location():
    q, k, v, gain = draw(1 + CELLS, 1 + CELLS)
    gain[:] = 1
    gain[:, :, 1, 3] = 0
    elsewhere = v.clone()
    elsewhere[:, :, 1 + 7] += 1
    with ClassRowGain(gain, Layout("NLC", 1)):
        seen, hidden = eager(q, k, elsewhere), eager(q, k, v)
    torch.testing.assert_close(seen[..., 0, :], hidden[..., 0, :], atol=1e-4, rtol=0)
