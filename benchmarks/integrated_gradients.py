"""Integrated gradients of 20 equal steps, and of as many nodes as the same completeness error takes.

    python benchmarks/integrated_gradients.py
    python benchmarks/integrated_gradients.py --weights resnet50.safetensors --data FOLDER     # trained, on photographs

Completeness error: |sum of the map - (score of the image - score of the baseline)|, as a share of that difference. Only
a trained network on images says anything about it. ``--reference N`` also prints how far every map is from that of N
equal steps: ``|map - reference| / |reference|`` over the pixels.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import timm
import torch
from peers import peer
from photographs import Spread, network
from timing import compare

from attention_refine import maps
from attention_refine.backbones import logits_of

STEPS = 20


def errors(net: torch.nn.Module, x: torch.Tensor, target: torch.Tensor, attributions: torch.Tensor) -> torch.Tensor:
    """``(B,)`` completeness errors."""
    with torch.no_grad():
        gap = [logits_of(net(images)).gather(1, target[:, None])[:, 0] for images in (x, torch.zeros_like(x))]
    gap = gap[0] - gap[1]
    return (attributions.flatten(1).sum(1) - gap).abs() / gap.abs()


def written(values: torch.Tensor) -> str:
    return " ".join(f"{value:.3f}" for value in values.tolist())


def distances(found: torch.Tensor, reference: torch.Tensor) -> str:
    off = (found - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)
    return f"; distance to the reference median {off.median():.2f}, largest {off.max():.2f}"


def measure(net: torch.nn.Module, x: torch.Tensor, rounds: int, steps: int) -> None:
    with torch.no_grad():
        target = net(x).argmax(1)
    reference = maps.integrated_gradients(net, x, target, steps=steps, chunk_size=8) if steps else None
    apart = partial(distances, reference=reference) if steps else lambda found: ""
    equal = maps.integrated_gradients(net, x, target, steps=STEPS)
    found = errors(net, x, target, equal)
    asked = {"largest": float(found.max()), "median": float(found.median()), "default": 0.05}
    print(f"{STEPS} equal steps: completeness errors {written(found)}{apart(equal)}", flush=True)
    reached: dict[str, maps.Integrated] = {}

    def adaptive(name: str) -> None:
        reached[name] = maps.integrated_gradients_to_error(net, x, target, tolerance=asked[name])

    jobs = {
        "plain forward": lambda: plain(net, x),
        "ours, 20 steps": lambda: maps.integrated_gradients(net, x, target, steps=STEPS),
        **{f"ours, to {name}": partial(adaptive, name) for name in asked},
    }
    if captum := peer("captum.attr"):
        path = captum.IntegratedGradients(net)
        options = {"n_steps": STEPS, "method": "riemann_middle", "internal_batch_size": len(x)}
        jobs["captum, 20 steps"] = lambda: path.attribute(x, target=target, **options)
    compare(jobs, "plain forward", rounds, warm_up=False)  # warm by now
    for name, result in reached.items():
        share = (result.error / result.gap.abs())[:, 0]
        print(
            f"until every image is within {name}, {asked[name]:.3f}: nodes {result.nodes.tolist()}, mean "
            f"{result.nodes.float().mean():.1f}, errors {written(share)}{apart(result.maps)}",
            flush=True,
        )
    own = [
        maps.integrated_gradients_to_error(net, x[[i]], target[[i]], tolerance=max(float(found[i]), 1e-9))
        for i in range(len(x))
    ]
    nodes = torch.cat([each.nodes for each in own])
    print(f"until every image is within its own: nodes {nodes.tolist()}, mean {nodes.float().mean():.1f}, "
          f"median {nodes.median()}{apart(torch.cat([each.maps for each in own]))}", flush=True)  # fmt: skip
    for count in (8, STEPS):
        gauss = maps.integrated_gradients(net, x, target, steps=count, rule="gauss")
        off = errors(net, x, target, gauss)
        print(f"{count} Gauss-Legendre nodes: completeness errors {written(off)}{apart(gauss)}", flush=True)


def plain(net: torch.nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        net(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, nargs="+", default=[], help="files named as timm names the networks")
    parser.add_argument("--data", type=Path, help="folder with a test split")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--reference", type=int, default=0, help="steps of a reference map, 0 for none")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    cases = [network(file) for file in given.weights]
    cases = cases or [(timm.create_model(name).eval(), None) for name in ("resnet50", "vit_small_patch16_224")]
    for net, preprocessing in cases:
        x = torch.randn(given.batch, 3, 224, 224)
        if given.data and preprocessing:
            x = torch.stack([item["pixel_values"] for item in Spread(given.data, preprocessing, given.batch)])
        kind = net.default_cfg["architecture"]
        print(f"\n{kind}, batch {given.batch}, {given.threads} threads; time / a plain forward", flush=True)
        measure(net, x, given.rounds, given.reference)


if __name__ == "__main__":
    main()
