"""Integrated gradients of 20 equal steps, and of as many nested steps as the same completeness error takes.

    python benchmarks/integrated_gradients.py
    python benchmarks/integrated_gradients.py --weights resnet50.safetensors --data FOLDER      # trained, on photographs

Completeness error: |sum of the map - (score of the image - score of the baseline)|, as a share of that difference. Only
a trained network on images says anything about it.
"""

from __future__ import annotations

import argparse
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


def measure(net: torch.nn.Module, x: torch.Tensor, rounds: int) -> None:
    with torch.no_grad():
        target = net(x).argmax(1)
    found = errors(net, x, target, maps.integrated_gradients(net, x, target, steps=STEPS))
    asked = {"largest": float(found.max()), "median": float(found.median())}
    print(f"{STEPS} equal steps: completeness errors {written(found)}", flush=True)
    reached: dict[str, maps.Integrated] = {}

    def adaptive(name: str) -> None:
        reached[name] = maps.integrated_gradients_to_error(net, x, target, tolerance=asked[name])

    jobs = {
        "plain forward": lambda: plain(net, x),
        "ours, 20 steps": lambda: maps.integrated_gradients(net, x, target, steps=STEPS),
        "ours, to their largest error": lambda: adaptive("largest"),
        "ours, to their median error": lambda: adaptive("median"),
    }
    if captum := peer("captum.attr"):
        path = captum.IntegratedGradients(net)
        options = {"n_steps": STEPS, "method": "riemann_middle", "internal_batch_size": len(x)}
        jobs["captum, 20 steps"] = lambda: path.attribute(x, target=target, **options)
    compare(jobs, "plain forward", rounds, warm_up=False)  # warm by now
    for name, result in reached.items():
        share = (result.error / result.gap.abs())[:, 0]
        print(
            f"until every image is within their {name}, {asked[name]:.3f}: nodes {result.nodes.tolist()}, errors {written(share)}",
            flush=True,
        )
    for nodes in (8, STEPS):
        gauss = errors(net, x, target, maps.integrated_gradients(net, x, target, steps=nodes, rule="gauss"))
        print(f"{nodes} Gauss-Legendre nodes: completeness errors {written(gauss)}", flush=True)


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
        measure(net, x, given.rounds)


if __name__ == "__main__":
    main()
