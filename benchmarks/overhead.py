"""What a head costs a network: inference and a training step, eager and compiled, one image and eight, 10 and 1000 classes.

python benchmarks/overhead.py [--networks ...] [--batches 1 8] [--classes 10 1000] [--compiled] [--device cuda]

Each row is the wrapped network (ABN, light branch) over the plain one, round after round in turn: the median of the
ratios and their spread, and the ratio of the shortest times, which another process on the machine disturbs least.
Training is a step of the loss without an optimiser: forward and backward.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable

import timm
import torch
from timing import seconds
from torch import Tensor, nn

import attention_refine as ar

# the side in pixels at which each is looked at: the size it is made for
NETWORKS = {
    "mobilenetv3_small_100": 224, "resnet18": 224, "convnext_atto": 224, "swin_tiny_patch4_window7_224": 224,
    "vit_tiny_patch16_224": 224, "resnet50": 224, "efficientnet_b0": 224, "mobilenetv2_100": 224, "regnety_008": 224,
    "densenet121": 224, "deit_small_patch16_224": 224, "vit_small_patch16_224": 224,
}  # fmt: skip
JUDGED = list(NETWORKS)[:5]
GOAL = 1.10


def jobs(
    name: str, size: int, classes: int, batch: int, training: bool, compiled: bool, device: str, head: str
) -> dict[str, Callable[[], object]]:
    """The plain and the wrapped network's work, on the same images."""
    plain = timm.create_model(name, num_classes=classes)
    made = ar.AttentionBranch(branch="light") if head == "abn" else head
    wrapped = ar.wrap(copy.deepcopy(plain), head=made)
    x = torch.randn(batch, 3, size, size, device=device)
    y = torch.randint(0, classes, (batch,), device=device)

    def loss(net: nn.Module) -> Callable[[], Tensor]:
        run = torch.compile(net, fullgraph=True) if compiled else net
        if isinstance(net, ar.RefinedModel):
            return lambda: run(x, labels=y).loss
        return lambda: nn.functional.cross_entropy(run(x), y)

    def step(net: nn.Module) -> Callable[[], object]:
        made = loss(net)

        def run() -> None:
            net.zero_grad()
            made().backward()

        return run

    def look(net: nn.Module) -> Callable[[], object]:
        run = torch.compile(net, fullgraph=True) if compiled else net

        def go() -> None:
            with torch.no_grad():
                run(x)

        return go

    nets = {"plain": plain, "wrapped": wrapped}
    return {key: (step if training else look)(net.to(device).train(training)) for key, net in nets.items()}


def ratio(pair: dict[str, Callable[[], object]], rounds: int, least: float = 0.1) -> tuple[float, float, float, float]:
    """Median, smallest and largest ratio of interleaved rounds, and the ratio of the shortest times.

    A round repeats a job until it takes ``least`` seconds; which of the two comes first alternates.
    """
    for job in pair.values():
        job(), job()
    repeats = max(1, round(least / max(1e-6, seconds(pair["plain"]))))
    found: list[float] = []
    shortest = dict.fromkeys(pair, float("inf"))
    for number in range(rounds):
        spent = {}
        for key in sorted(pair, reverse=bool(number % 2)):
            spent[key] = seconds(lambda job=pair[key]: [job() for _ in range(repeats)])
            shortest[key] = min(shortest[key], spent[key])
        found.append(spent["wrapped"] / spent["plain"])
    return statistics.median(found), min(found), max(found), shortest["wrapped"] / shortest["plain"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--classes", nargs="+", type=int, default=[10, 1000])
    parser.add_argument("--head", default="abn", help="abn (light branch) or another head's name")
    parser.add_argument("--modes", nargs="+", default=["inference", "training"], choices=["inference", "training"])
    parser.add_argument("--compiled", action="store_true", help="compiled over compiled, beside eager over eager")
    parser.add_argument("--only-compiled", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    on = given.device if given.device != "cpu" else f"{given.threads} thread{'s' * (given.threads > 1)}"
    print(
        f"wrapped ({given.head}) / plain on {on}: median (spread) of {given.rounds} rounds, and of the shortest times"
    )
    short = []
    ways = ([] if given.only_compiled else [False]) + [True] * (given.compiled or given.only_compiled)
    for name in given.networks:
        for classes in given.classes:
            for batch in given.batches:
                for mode in given.modes:
                    for compiled in ways:
                        torch._dynamo.reset()
                        pair = jobs(
                            name, NETWORKS[name], classes, batch, mode == "training", compiled, given.device, given.head
                        )
                        median, low, high, best = ratio(pair, given.rounds)
                        row = f"{name}, {classes} classes, batch {batch}, {mode}, {'compiled' if compiled else 'eager'}"
                        print(f"{row:<75} {median:.3f} ({low:.3f} to {high:.3f})  {best:.3f}", flush=True)
                        if name in JUDGED and batch == 1 and median > GOAL:
                            short.append(f"{row}: {median:.3f}, goal {GOAL}")
    print(
        "\n".join(["short of the goal:", *short]) if short else f"all of {', '.join(JUDGED)} at batch 1 within {GOAL}"
    )
    return bool(short)


if __name__ == "__main__":
    raise SystemExit(main())
