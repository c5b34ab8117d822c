"""Images a second of a training step: the plain network, the wrapped one, eager and compiled; memory; several processes.

python benchmarks/throughput.py [--networks resnet50] [--batch 128] [--device cuda] [--processes 1 2 4 8]

A step is forward, backward and an update by SGD on images that are there, so loading is left out. A number is the median
of rounds in which the jobs take turns; the ratio is that of the same rounds. With ``--processes`` the wrapped network's
step is taken by so many processes together (DistributedDataParallel, a GPU each, gloo on a CPU), each with its own batch.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import timm
import torch
from timing import seconds
from torch import nn

import attention_refine as ar

CLASSES = 1000
PRECISIONS = {"float32": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """Of a step: images, side in pixels, device, precision (a key of PRECISIONS), and whether it is compiled."""

    batch: int
    size: int
    device: str
    precision: str
    compiled: bool = False


def networks(name: str) -> dict[str, nn.Module]:
    """The plain network, and the same with an attention branch."""
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=CLASSES)
    wrapped = ar.wrap(copy.deepcopy(plain), head=ar.AttentionBranch(branch="light"))
    return {"plain": plain, "abn": wrapped}


def step_of(net: nn.Module, setting: Setting, parallel: bool = False) -> Callable[[], object]:
    """A training step of a network on images of its own."""
    net = net.to(setting.device, memory_format=torch.channels_last).train()
    refined = isinstance(net, ar.RefinedModel)
    if parallel:
        net = nn.parallel.DistributedDataParallel(net, find_unused_parameters=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    pixels = torch.randn(setting.batch, 3, setting.size, setting.size, device=setting.device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (setting.batch,), device=setting.device)
    run = torch.compile(net) if setting.compiled else net
    dtype = PRECISIONS[setting.precision]

    def step() -> None:
        optimizer.zero_grad()
        with nullcontext() if dtype is None else torch.autocast(torch.device(setting.device).type, dtype):
            loss = run(pixels, labels=labels).loss if refined else nn.functional.cross_entropy(run(pixels), labels)
        loss.backward()
        optimizer.step()

    return step


def peak(step: Callable[[], object]) -> float | None:
    """GiB of a GPU that a step takes at most; None on a CPU."""
    if not torch.cuda.is_initialized():
        return None
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**30


def compared(name: str, setting: Setting, rounds: int) -> None:
    """A line for each network: images a second, time over the plain one's, and memory where it can be told."""
    torch._dynamo.reset()
    nets = networks(name)
    memory: dict[str, float | None] = {}
    for key, net in nets.items():  # alone on the device
        twin = copy.deepcopy(net)
        memory[key] = peak(step_of(twin, setting))
        del twin
    steps = {key: step_of(net, setting) for key, net in nets.items()}
    spent: dict[str, list[float]] = {key: [] for key in steps}
    for number in range(-2, rounds):
        for key, step in steps.items():
            taken = seconds(step)
            if number >= 0:
                spent[key].append(taken)
    for key, taken in spent.items():
        rate = setting.batch / statistics.median(taken)
        ratio = statistics.median(one / plain for one, plain in zip(taken, spent["plain"]))
        held = "" if memory[key] is None else f", peak {memory[key]:.2f} GiB"
        way = f"{setting.precision} {'compiled' if setting.compiled else 'eager'}"
        print(f"{name} {way} {key:<5} {rate:10.1f} images/s, {ratio:.3f} x plain{held}", flush=True)


def shared(given: argparse.Namespace, processes: int) -> float:
    """Images a second of all of so many processes of this script, started by torchrun."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    options = ["--networks", given.networks[0], "--batch", given.batch, "--size", given.size, "--rounds", given.rounds]
    words = [*launch, __file__, *map(str, options), "--device", given.device, "--precisions", given.precisions[-1]]
    done = subprocess.run([*words, "--share"], stdout=subprocess.PIPE, text=True, check=True)
    return float(re.search(r"^shared (\S+)$", done.stdout, re.M)[1])


def share(given: argparse.Namespace) -> None:
    """One of several processes; the first prints what all did."""
    rank, cuda = int(os.environ["LOCAL_RANK"]), given.device == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    device = f"cuda:{rank}" if cuda else "cpu"
    setting = Setting(given.batch, given.size, device, given.precisions[-1])
    step = step_of(networks(given.networks[0])["abn"], setting, parallel=True)
    spent = [seconds(step, clock=True) for _ in range(given.rounds + 2)][2:]
    if rank == 0:
        print(f"shared {given.batch * torch.distributed.get_world_size() / statistics.median(spent):.3f}")
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet50"], help="of timm")
    parser.add_argument("--batch", type=int, default=128, help="images, of each process")
    parser.add_argument("--size", type=int, default=224, help="side in pixels")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=list(PRECISIONS))
    parser.add_argument("--only-eager", action="store_true")
    parser.add_argument("--processes", nargs="*", type=int, help="to share a step; 1, 2, 4, ... GPUs if not given")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--share", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    if given.share:
        return share(given)
    for name in given.networks:
        for precision in given.precisions:
            for compiled in (False,) if given.only_eager else (False, True):
                compared(name, Setting(given.batch, given.size, given.device, precision, compiled), given.rounds)
    there = torch.cuda.device_count() if given.device == "cuda" else 0
    counts = given.processes if given.processes is not None else [n for n in (1, 2, 4, 8) if n <= there]
    rates = {count: shared(given, count) for count in counts}
    for count, rate in rates.items():
        each = count * rates[counts[0]] / counts[0] / rate
        print(f"{count} processes {rate:10.1f} images/s, an image takes {each:.3f} x its share of {counts[0]}'s")


if __name__ == "__main__":
    main()
