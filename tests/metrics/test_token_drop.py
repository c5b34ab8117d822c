"""Dropping tokens against a transformer run by hand on part of its sequence."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import transformers
from torch import nn

from attention_refine import metrics
from attention_refine.metrics.token_drop import _Gate


class PlainViT(nn.Module):
    def __init__(self, class_token: bool = True, classes: int = 5):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.class_token = nn.Parameter(torch.randn(1, 1, 16)) if class_token else None
        self.position = nn.Parameter(torch.randn(1, 24 + class_token, 16))
        layers = [nn.TransformerEncoderLayer(16, 2, 32, dropout=0.3, batch_first=True) for _ in range(2)]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(16, classes)
        self.lengths: list[tuple[int, int]] = []

    def embed(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        return x + self.position

    def classify(self, x):
        self.lengths.append((len(x), x.shape[1]))
        return 3 * self.head(x[:, 0] if self.class_token is not None else x.mean(1))

    def forward(self, x):
        return self.classify(self.blocks(self.embed(x)))


@pytest.fixture
def photos():
    return torch.randn(3, 3, 16, 24), torch.rand(3, 1, 4, 6)


def by_hand(net, image, order, target, keep):
    net = copy.deepcopy(net).eval()
    with torch.no_grad():
        tokens = net.embed(image[None])
        prefix = tokens.shape[1] - 24
        chosen = [*range(prefix), *(prefix + i for i in sorted(order[keep]))]
        return net.classify(net.blocks(tokens[:, chosen])).softmax(1)[0, target].item()


@pytest.mark.parametrize("n_steps", [3, 8, 24])
def test_equals_by_hand(photos, n_steps):
    images, maps = photos
    net = PlainViT()
    result = metrics.token_insertion_and_deletion(net, images, maps, n_steps=n_steps)
    for sample in range(3):
        order = maps[sample].flatten().argsort(descending=True, stable=True).tolist()
        target = int(result.insertion.target[sample])
        for step in range(n_steps + 1):
            count = round(step * 24 / n_steps)
            kept = by_hand(net, images[sample], order, target, slice(0, count))
            left = by_hand(net, images[sample], order, target, slice(count, None))
            assert result.insertion.curve[sample, step].item() == pytest.approx(kept, abs=1e-5)
            assert result.deletion.curve[sample, step].item() == pytest.approx(left, abs=1e-5)
    assert result.insertion.fractions.tolist() == pytest.approx([j / n_steps for j in range(n_steps + 1)])
    torch.testing.assert_close(result.deletion.fractions, result.insertion.fractions)


def test_uneven_steps_keep_their_fractions(photos):
    images, maps = photos
    net = PlainViT()
    result = metrics.token_insertion_and_deletion(net, images, maps, n_steps=7)
    removed = result.deletion.fractions * 24
    torch.testing.assert_close(removed, removed.round())
    for sample in range(3):
        order = maps[sample].flatten().argsort(descending=True, stable=True).tolist()
        for step in range(8):
            left = by_hand(
                net, images[sample], order, int(result.deletion.target[sample]), slice(int(removed[step].round()), None)
            )
            assert result.deletion.curve[sample, step].item() == pytest.approx(left, abs=1e-5)


def test_average_pooled_keeps_one_token(photos):
    images, maps = photos
    net = PlainViT(class_token=False)
    result = metrics.token_insertion_and_deletion(net, images, maps, n_steps=23)
    assert result.insertion.curve.isfinite().all() and result.deletion.curve.isfinite().all()
    order = maps[0].flatten().argsort(descending=True, stable=True).tolist()
    target = int(result.insertion.target[0])
    assert result.insertion.curve[0, 0].item() == pytest.approx(
        by_hand(net, images[0], order, target, slice(0, 1)), abs=1e-5
    )
    assert result.deletion.curve[0, -1].item() == pytest.approx(
        by_hand(net, images[0], order, target, slice(23, 24)), abs=1e-5
    )


def test_half_the_tokens(photos):
    net = PlainViT()
    metrics.token_insertion_and_deletion(net, *photos, n_steps=24)
    pixels = 3 * (2 * 23 + 2) * 25
    assert sum(n * length for n, length in net.lengths) < 0.55 * pixels


def test_laws(photos):
    images, maps = photos
    net = PlainViT()
    net.train()
    whole = metrics.token_insertion_and_deletion(net, images, maps, n_steps=6)
    assert net.training and net.blocks[0].training and not net.blocks[0]._forward_pre_hooks
    for batch_size in (1, 2):
        parts = metrics.token_insertion_and_deletion(net, images, maps, n_steps=6, batch_size=batch_size)
        torch.testing.assert_close(parts.deletion.curve, whole.deletion.curve, atol=1e-6, rtol=1e-5)
    alone = metrics.token_insertion(net, images[[1]], maps[[1]] ** 3, n_steps=6)
    torch.testing.assert_close(alone.curve[0], whole.insertion.curve[1], atol=1e-6, rtol=1e-5)
    fine = maps.repeat_interleave(4, 2).repeat_interleave(4, 3)  # averaged back over each patch
    torch.testing.assert_close(metrics.token_deletion(net, images, fine, n_steps=6).auc, whole.deletion.auc)


def test_refusals(photos, net):
    images, maps = photos
    with pytest.raises(ValueError, match="pixels"):
        metrics.token_insertion(net, images, maps)
    with pytest.raises(ValueError, match="n_steps"):
        metrics.token_insertion(PlainViT(), images, maps, n_steps=25)
    with pytest.raises(ValueError, match=r"samples \[0"):
        metrics.token_insertion(PlainViT(), images, maps * torch.nan)

    class Fixed(PlainViT):
        def forward(self, x):
            return self.classify(self.blocks(self.embed(x)).view(-1, 25, 16))

    fixed = Fixed()
    with pytest.raises(ValueError, match="part of its tokens"):
        metrics.token_insertion(fixed, images, maps, n_steps=6)
    assert not fixed.blocks[0]._forward_pre_hooks


@pytest.mark.parametrize("mixed", [False, True])
def test_rotary_positions_stay_with_their_tokens(mixed):
    """Against the whole sequence under an attention mask, from which the class token cannot tell who was left out."""
    from timm.models import eva

    torch.manual_seed(0)
    net = eva.Eva(
        img_size=40, patch_size=8, num_classes=4, global_pool="token", embed_dim=32, depth=3, num_heads=2,
        use_abs_pos_emb=False, use_rot_pos_emb=True, rope_type="mixed" if mixed else "cat",
    ).eval()  # fmt: skip
    images, maps = torch.randn(2, 3, 40, 40), torch.rand(2, 1, 5, 5)
    found = metrics.token_insertion_and_deletion(net, images, maps, n_steps=5, score="logit")
    order = maps.flatten(1).argsort(1, descending=True)
    for step in range(6):
        for kept, curve in (
            (order[:, : 5 * step], found.insertion.curve),
            (order[:, 5 * step :], found.deletion.curve),
        ):
            seen = torch.zeros(2, 26, dtype=torch.bool)
            seen[:, 0] = True
            seen.scatter_(1, 1 + kept, True)
            with torch.no_grad():
                mask = seen[:, None, None].expand(-1, 1, 26, -1)
                logits = net.forward_head(net.forward_features(images, attn_mask=mask))
            expected = logits.gather(1, found.insertion.target[:, None])[:, 0]
            torch.testing.assert_close(curve[:, step], expected, atol=1e-5, rtol=1e-5)
    assert not any(block._forward_pre_hooks for block in net.blocks)


def test_rotary_positions_of_another_length_are_refused():
    gate = _Gate()
    gate.tokens_in_all, gate.keep = 25, torch.tensor([[1, 2]])
    with pytest.raises(ValueError, match=r"\(28, 8\) are not one row a patch of 25"):
        gate.positions(None, (), {"rope": torch.zeros(28, 8)})


def test_rotary_positions_of_transformers():
    config = transformers.DINOv3ViTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_register_tokens=2, num_labels=4,
    )  # fmt: skip

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.head = transformers.DINOv3ViTModel(config), nn.Linear(24, 4)

        def forward(self, pixel_values):
            return self.head(self.trunk(pixel_values).last_hidden_state[:, 0])

    net = Classifier().eval()
    images, maps = torch.randn(2, 3, 32, 32), torch.rand(2, 1, 4, 4)
    found = metrics.token_insertion_and_deletion(net, images, maps, n_steps=16)
    clean = net(images).softmax(1).max(1).values.detach()
    torch.testing.assert_close(found.insertion.curve[:, -1], clean, atol=1e-6, rtol=1e-5)
    assert found.insertion.curve.isfinite().all() and found.insertion.curve[:, 1:-1].std() > 0


def test_timm_and_transformers():
    images, maps = torch.randn(2, 3, 32, 32), torch.rand(2, 1, 4, 4)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2, num_classes=4
    )
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_labels=4
    )  # fmt: skip
    for model in (vit, transformers.ViTForImageClassification(config)):
        model.eval()
        result = metrics.token_insertion_and_deletion(model, images, maps, n_steps=16)
        clean = model(images)
        clean = getattr(clean, "logits", clean).softmax(1).max(1).values
        torch.testing.assert_close(result.insertion.curve[:, -1], clean.detach(), atol=1e-6, rtol=1e-5)
        assert result.insertion.curve.isfinite().all() and result.deletion.auc.shape == (2,)
        assert result.insertion.curve[:, 1:-1].std() > 0
