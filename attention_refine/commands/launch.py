"""``attention-refine launch``: start ``finetune`` on several processes, by accelerate, with the right words for the machine.

Nothing is started by this file itself: it becomes ``accelerate launch``, which ``--print`` shows.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._arguments import add_command, positive

PORT = 29500  # of the first machine, where none is given; torchrun's


@dataclass(frozen=True)
class Machines:
    """Where the processes run: how many machines, which of them this one is, and where the first is found."""

    count: int = 1
    rank: int = 0
    address: str | None = None  # host:port


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(
        commands, "launch", run, "start finetune on several processes or machines, by accelerate launch"
    )
    parser.usage = "attention-refine launch [options] finetune CONFIG [--section.field value ...]"
    parser.add_argument("--processes", type=positive, help="on this machine (default: one a GPU; 2 without one)")
    parser.add_argument("--machines", type=positive, default=1, help="in all (default: %(default)s)")
    parser.add_argument("--rank", type=int, default=0, help="of this machine, 0 for the first (default: %(default)s)")
    parser.add_argument("--address", metavar="HOST:PORT", help="of the first of several machines")
    parser.add_argument(
        "--slurm", action="store_true",
        help="take machines, rank and address from the job's variables; start it with srun, one task a node",
    )  # fmt: skip
    parser.add_argument("--fsdp", action="store_true", help="divide the model between the processes (FSDP2)")
    parser.add_argument("--print", action="store_true", dest="shown", help="print the command and stop")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="finetune CONFIG and its options")


def run(arguments: argparse.Namespace) -> None:
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if words[:1] != ["finetune"]:
        found = f"{words[0]!r}" if words else "nothing"
        raise ValueError(f"launch starts finetune, the command that shares its work, and found {found}: "
                         "attention-refine launch --processes 2 finetune CONFIG")  # fmt: skip
    if arguments.slurm:
        machines = of_slurm(os.environ)
    else:
        machines = Machines(arguments.machines, arguments.rank, arguments.address)
    command = accelerate_command(arguments.processes or devices(), machines, words, arguments.fsdp)
    print(shlex.join(["accelerate", *command[3:]]), flush=True)
    if not arguments.shown:
        os.execv(command[0], command)


def accelerate_command(processes: int, machines: Machines, words: list[str], fsdp: bool = False) -> list[str]:
    """``python -m accelerate.commands.accelerate_cli launch …``, every word that accelerate would ask or guess given.

    Args:
        processes: on each machine.
        words: of ``attention-refine``.

    Raises:
        ValueError: machines that cannot find each other, a rank that is none, one process to share between.
    """
    total = processes * machines.count
    if not 0 <= machines.rank < machines.count:
        raise ValueError(f"--rank {machines.rank} is none of {machines.count} machines: give 0 to {machines.count - 1}")
    if total == 1:
        raise ValueError(
            "one process shares nothing: leave launch out, attention-refine finetune …, or more --processes"
        )
    options = ["--num_processes", total, "--num_machines", machines.count, "--machine_rank", machines.rank]
    if machines.count > 1:
        host, _, port = (machines.address or "").partition(":")
        if not host or not (port or str(PORT)).isdecimal():
            raise ValueError(
                f"--address {machines.address!r} is not where {machines.count} machines find the first of them: give "
                f"its HOST:PORT, the same on all, such as node1:{PORT}"
            )
        options += ["--main_process_ip", host, "--main_process_port", port or PORT]
    else:
        options += ["--main_process_port", 0]  # a free one
    # the config says the precision, and compiles; several GPUs is accelerate's word for several processes of any kind
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    if fsdp:
        options += ["--use_fsdp", "--fsdp_version", 2, "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
    else:
        options += ["--multi_gpu"]
    python = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    return [*python, *map(str, options), "-m", "attention_refine.cli", *words]


def of_slurm(variables: Mapping[str, str]) -> Machines:
    """What a slurm job says of its machines.

    Raises:
        ValueError: it is none, or runs more than one task on a node.
    """
    if "SLURM_JOB_ID" not in variables:
        raise ValueError("--slurm reads the variables of a slurm job, and SLURM_JOB_ID is not set: start it with srun")
    tasks, nodes = int(variables.get("SLURM_NTASKS", 1)), int(variables.get("SLURM_NNODES", 1))
    if tasks != nodes:
        raise ValueError(
            f"srun started {tasks} tasks on {nodes} nodes: give --ntasks-per-node=1, launch starts a node's processes"
        )
    if nodes == 1:
        return Machines()
    hosts = subprocess.run(
        ["scontrol", "show", "hostnames", variables["SLURM_JOB_NODELIST"]], capture_output=True, text=True, check=True
    )
    port = 20000 + int(variables["SLURM_JOB_ID"]) % 20000  # jobs on the same node do not meet
    return Machines(nodes, int(variables["SLURM_NODEID"]), f"{hosts.stdout.split()[0]}:{port}")


def devices() -> int:
    """Processes of a machine of which nothing is said: its GPUs, or two that share the cores."""
    import torch

    return torch.cuda.device_count() or 2
