"""A DARC step of N iterations against N times (a supervised step and the decoder's multiply-adds).

python benchmarks/darc_step.py

The supervised step is that of the same model without the objective. Printed are time and multiply-adds of DARC's
step over N supervised steps with the decoder, for both forms of the task's own pass; the last number is to be at most
1.1 for ``task="occluded"``, in which the task's pass is the first iteration.
"""

from __future__ import annotations

import statistics

import timm
import torch
from abn_step import step
from timing import arguments, multiply_adds, one_round

import attention_refine as ar

NETWORKS = ("resnet50", "vit_small_patch16_224")


def main() -> None:
    given = arguments(__doc__, rounds=3, networks=NETWORKS)
    x = torch.randn(given.batch, 3, given.size, given.size).to(given.device)
    y = torch.randint(0, 200, (given.batch,)).to(given.device)
    for name in given.networks:
        for head in ("abn", None):
            for iterations in (1, 3):
                compare_on(name, head, iterations, x, y, given.rounds)


def compare_on(name: str, head: str | None, iterations: int, x: torch.Tensor, y: torch.Tensor, rounds: int) -> None:
    branch = ar.AttentionBranch(branch="light") if head else None
    model = ar.wrap(timm.create_model(name, num_classes=200), head=branch).to(x.device).train()
    objectives = {}
    for task in ("clean", "occluded"):
        model.add_objective(ar.DARC(iterations=iterations, task=task))
        objectives[task] = model.objectives.pop("darc").to(x.device)
    decoder = multiply_adds(decoding(objectives["clean"], model, x))

    def supervised() -> None:
        model.objectives.clear()
        step(model, x, y)()

    def refined(task: str) -> None:
        model.objectives["darc"] = objectives[task]
        step(model, x, y)()

    plain = multiply_adds(supervised)
    allowed = iterations * (1 + decoder / plain)  # in supervised steps
    for task in objectives:
        work = multiply_adds(lambda task=task: refined(task)) / plain
        found = [one_round(supervised, lambda task=task: refined(task)) for _ in range(rounds + 1)][1:]
        middle = statistics.median(found)
        print(
            f"{name}, {head or 'Grad-CAM'}, N={iterations}, {task}: {middle:.2f} x a supervised step "
            f"({min(found):.2f} to {max(found):.2f}, {rounds} rounds), {work:.2f} x its multiply-adds; "
            f"decoder {decoder / plain:.3f}; over N (step + decoder): time {middle / allowed:.3f}, "
            f"multiply-adds {work / allowed:.3f}",
            flush=True,
        )


def decoding(objective: torch.nn.Module, model: ar.RefinedModel, x: torch.Tensor):
    """The decoder alone on a feature of the batch, forward and backward."""
    feature = model.backbone.features(x).grid.detach().requires_grad_()
    return lambda: objective.decoder(feature, tuple(x.shape[2:])).sum().backward()


if __name__ == "__main__":
    main()
