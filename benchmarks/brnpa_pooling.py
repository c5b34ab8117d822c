"""BR-NPA's pooling: its share of a ResNet-50 forward at 14x14, against a loop over images, and its memory at 56x56.

python benchmarks/brnpa_pooling.py
"""

from __future__ import annotations

import timm
import torch
from memory import extra
from timing import arguments, compare
from torch import Tensor, nn

import attention_refine as ar
from attention_refine.heads.brnpa import EPS, LEAST

PARTS, CHANNELS = 3, 2048


def main() -> None:
    given = arguments(__doc__, rounds=5)
    with torch.no_grad():
        print("share of a ResNet-50 forward, 448 pixels, a 14x14 grid")
        share(min(given.batch, 4), given.rounds, given.device)
        print("32 images, 14x14, 2048 channels: a loop over images against the batch at once")
        against_a_loop(CHANNELS, 14, given.rounds, given.device)
        print("32 images, 7x7, 512 channels (ResNet-18, 224 pixels)")
        against_a_loop(512, 7, given.rounds, given.device)
    print("extra peak memory of pooling forward and backward, 8 images of 56x56, bf16 features, MiB (the feature: 98)")
    for name in ("whole", "chunk_1", "cosine_matrix"):
        given.batch, given.size = 8, 56
        print(f"  {name}: {extra(__file__, 'resnet50', name, given):.0f}")


def head(**options) -> ar.BRNPA:
    """On a network that is only its feature."""
    made = ar.BRNPA(parts=PARTS, fade_in_steps=0, **options)
    made.register_buffer("begun_steps", torch.zeros((), dtype=torch.long))
    return made


def share(batch: int, rounds: int, device: str) -> None:
    net = timm.create_model("resnet50", num_classes=200).to(device).eval()
    images = torch.randn(batch, 3, 448, 448).to(device)
    feature, pooling = net.forward_features(images), head().to(device).eval()
    found = compare({"forward": lambda: net(images), "pooling": lambda: pooling(feature)}, "forward", rounds)
    print(f"  pooling is {100 * found['pooling']:.2f} % of the forward")


def against_a_loop(channels: int, side: int, rounds: int, device: str) -> None:
    feature, pooling = torch.randn(32, channels, side, side).relu().to(device), head().to(device).eval()
    vectors, _, _ = pooling(feature)
    torch.testing.assert_close(vectors.vectors, one_by_one(feature), rtol=1e-4, atol=1e-5)
    compare({"loop": lambda: one_by_one(feature), "batch": lambda: pooling(feature)}, "batch", rounds)


def one_by_one(feature: Tensor) -> Tensor:
    """The same parts, image after image and location after location of the equations, as a first version is written."""
    made = []
    for image in feature.flatten(2):
        norms = image.norm(dim=0) + EPS
        activity, vectors = norms.clone(), []
        for _ in range(PARTS):
            index = int(activity.argmax())
            chosen = image[:, index]
            similar = torch.stack([(image[:, j] * chosen).sum() / (norms[j] * norms[index]) for j in range(len(norms))])
            similar = similar.clamp(0, 1)
            weights = (similar + LEAST) / (similar + LEAST).sum()
            vectors.append((image * weights).sum(1))
            activity = activity * (1 - similar)
        made.append(torch.stack(vectors))
    return torch.stack(made)


def jobs(network: str, batch: int, size: int, device: str) -> tuple:
    """For the memory of one job in a process of its own: the feature's own gradient, and the poolings."""
    feature = torch.randn(batch, CHANNELS, size, size).relu().bfloat16().to(device).requires_grad_()

    def plain() -> None:
        feature.sum().backward()
        feature.grad = None

    def run(pooling: nn.Module) -> None:
        vectors, maps, _ = pooling.train()(feature)
        (vectors.vectors.sum() + maps.sum()).backward()
        feature.grad = None

    def cosine_matrix() -> None:
        """What it costs to compare every location with every other first."""
        flat = nn.functional.normalize(feature.float().flatten(2), dim=1)
        torch.bmm(flat.transpose(1, 2), flat).sum().backward()
        feature.grad = None

    whole, pieces = head(chunk=batch).to(device), head(chunk=1).to(device)
    return plain, {"whole": lambda: run(whole), "chunk_1": lambda: run(pieces), "cosine_matrix": cosine_matrix}


if __name__ == "__main__":
    main()
