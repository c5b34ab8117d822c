"""An ABN training step against a plain one, light and as published, and what its multiply-adds allow.

python benchmarks/abn_step.py
"""

from __future__ import annotations

import timm
import torch
from timing import arguments, compare, multiply_adds

import attention_refine as ar


def step(model: torch.nn.Module, pixel_values: torch.Tensor, labels: torch.Tensor):
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def run() -> None:
        optimizer.zero_grad()
        model(pixel_values, labels=labels).loss.backward()
        optimizer.step()

    return run


def main() -> None:
    given = arguments(__doc__)
    x = torch.randn(given.batch, 3, given.size, given.size).to(given.device)
    y = torch.randint(0, 200, (given.batch,)).to(given.device)
    for name in ("resnet50", "vit_small_patch16_224"):
        made = {"plain": ar.wrap(timm.create_model(name, num_classes=200))}
        for branch in ("light", "twin"):
            made[branch] = ar.wrap(timm.create_model(name, num_classes=200), head=ar.AttentionBranch(branch=branch))
        jobs = {branch: step(model.to(given.device).train(), x, y) for branch, model in made.items()}
        work = {branch: multiply_adds(job) for branch, job in jobs.items()}
        print(f"\n{name}, batch {given.batch}, {given.size} px, {given.on}; time / a plain training step")
        found = compare(jobs, "plain", given.rounds)
        for branch in ("light", "twin"):
            allowed = work[branch] / work["plain"]
            print(
                f"{branch}: {found[branch]:.2f} x the step for {allowed:.2f} x the multiply-adds: {found[branch] / allowed:.2f}"
            )


if __name__ == "__main__":
    main()
