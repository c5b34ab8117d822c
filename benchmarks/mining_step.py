"""A mining step against an ABN step: time, multiply-adds, and the multiply-adds it adds over those after the site.

python benchmarks/mining_step.py
"""

from __future__ import annotations

import statistics

import timm
import torch
from abn_step import step
from timing import arguments, multiply_adds, one_round

import attention_refine as ar

NETWORKS = ("resnet50", "swin_tiny_patch4_window7_224", "vit_small_patch16_224")


def main() -> None:
    given = arguments(__doc__, rounds=5)
    x = torch.randn(given.batch, 3, given.size, given.size).to(given.device)
    y = torch.randint(0, 200, (given.batch,)).to(given.device)
    for name in NETWORKS:
        compare_on(name, x, y, given.rounds)


def compare_on(name: str, x: torch.Tensor, y: torch.Tensor, rounds: int) -> None:
    model = ar.wrap(timm.create_model(name, num_classes=200), head=ar.AttentionBranch(branch="light"))
    mining = ar.AttentionMining()
    model.add_objective(mining)
    model.to(x.device).train()

    def abn() -> None:
        model.objectives.clear()
        step(model, x, y)()

    def mined() -> None:
        model.objectives["mining"] = mining
        step(model, x, y)()

    work = {"abn": multiply_adds(abn), "mined": multiply_adds(mined)}
    added = (work["mined"] - work["abn"]) / after_site(model, x, y)
    allowed = work["mined"] / work["abn"]
    found = [one_round(abn, mined) for _ in range(rounds + 1)][1:]
    middle = statistics.median(found)
    print(
        f"{name}: a mining step takes {middle:.3f} x an ABN step ({min(found):.3f} to {max(found):.3f}) "
        f"in {rounds} rounds for {allowed:.3f} x the multiply-adds: {middle / allowed:.3f}; "
        f"it adds {added:.3f} x those after the site",
        flush=True,
    )


def after_site(model: ar.RefinedModel, x: torch.Tensor, y: torch.Tensor) -> float:
    """Multiply-adds of what comes after the site, forward and backward."""
    feature = model.backbone.features(x)
    feature = feature.with_grid(feature.grid.detach().requires_grad_())
    return multiply_adds(lambda: torch.nn.functional.cross_entropy(model.backbone.resume(feature), y).backward())


if __name__ == "__main__":
    main()
