"""Steps of GroupDRO on a linear classifier, by one process or two; test_group_dro.py compares them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

import attention_refine as ar
from attention_refine.objectives._distributed import processes

IMAGES = 6


def steps(mine: slice) -> dict[str, torch.Tensor]:
    """Three steps on the images of ``mine``: gradients summed over processes, weighted by their images."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(IMAGES, 7, generator=generator)
    labels, groups = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 1, 0, 3, 1])
    weight = torch.randn(3, 7, generator=generator, requires_grad=True)
    objective = ar.GroupDRO(step_size=0.7, groups=5).train()
    for _ in range(3):
        output = SimpleNamespace(logits=features[mine] @ weight.T, aux_logits={}, measures={})
        batch = {"labels": labels[mine], "group": groups[mine]}
        loss = objective(None, batch, output)["group_dro"] * (len(labels[mine]) / IMAGES)
        (gradient,) = torch.autograd.grad(loss, weight)
        if processes() > 1:
            dist.all_reduce(gradient)
        with torch.no_grad():
            weight -= 0.5 * gradient
    return {"weight": weight.detach(), "groups": objective.weights, "worst": output.measures["group_dro_worst"]}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    found = steps(slice(0, 2) if dist.get_rank() == 0 else slice(2, IMAGES))  # uneven shares
    if dist.get_rank() == 0:
        torch.save(found, Path(sys.argv[1]) / "two.pt")
    dist.barrier()
    dist.destroy_process_group()
