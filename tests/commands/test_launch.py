"""launch: the words that accelerate gets, held against its own parser, and what is refused before anything starts."""

from __future__ import annotations

import subprocess
import sys

import pytest
from accelerate.commands.launch import launch_command_parser

from attention_refine.cli import main
from attention_refine.commands import launch
from attention_refine.commands.launch import Machines, accelerate_command, of_slurm

WORDS = ["finetune", "abn_shapes", "--training.epochs", "2"]


def as_accelerate_reads(command):
    assert command[:4] == [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    return launch_command_parser().parse_args(command[4:])


def test_accelerate_reads_what_was_asked():
    found = as_accelerate_reads(accelerate_command(4, Machines(), WORDS))
    assert (found.num_processes, found.num_machines, found.machine_rank, found.multi_gpu) == (4, 1, 0, True)
    assert found.module and found.training_script == "attention_refine.cli" and found.training_script_args == WORDS
    assert not found.use_fsdp and found.mixed_precision == "no"


def test_processes_are_counted_over_all_machines():
    found = as_accelerate_reads(accelerate_command(8, Machines(3, 2, "node1:1234"), WORDS, fsdp=True))
    assert (found.num_processes, found.num_machines, found.machine_rank) == (24, 3, 2)
    assert (found.main_process_ip, found.main_process_port) == ("node1", 1234)
    assert found.use_fsdp and found.fsdp_version == "2" and not found.multi_gpu
    assert as_accelerate_reads(accelerate_command(8, Machines(2, 0, "node1"), WORDS)).main_process_port == launch.PORT


def test_slurm_says_the_machines(monkeypatch):
    asked = []

    def hostnames(command, **options):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="node07\nnode08\n")

    monkeypatch.setattr(subprocess, "run", hostnames)
    variables = {
        "SLURM_JOB_ID": "4012345", "SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_NODEID": "1",
        "SLURM_JOB_NODELIST": "node[07-08]",
    }  # fmt: skip
    assert of_slurm(variables) == Machines(2, 1, "node07:32345")
    assert asked == [["scontrol", "show", "hostnames", "node[07-08]"]]
    assert of_slurm({"SLURM_JOB_ID": "1"}) == Machines()
    with pytest.raises(ValueError, match="8 tasks on 2 nodes: give --ntasks-per-node=1"):
        of_slurm(variables | {"SLURM_NTASKS": "8"})
    with pytest.raises(ValueError, match="SLURM_JOB_ID is not set: start it with srun"):
        of_slurm({})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "found nothing"),
        (["evaluate", "model"], "found 'evaluate'"),
        (["--processes", "1", *WORDS], "one process shares nothing"),
        (["--processes", "2", "--machines", "2", *WORDS], "--address None is not where 2 machines find the first"),
        (["--processes", "2", "--machines", "2", "--address", "node1:x", *WORDS], "--address 'node1:x'"),
        (["--processes", "2", "--machines", "2", "--rank", "2", *WORDS], "--rank 2 is none of 2 machines"),
    ],
)
def test_refused_before_anything_starts(words, said, capsys, monkeypatch):
    monkeypatch.setattr(launch.os, "execv", lambda *command: pytest.fail("it was started"))
    assert main(["launch", *words]) == 1
    assert said in capsys.readouterr().err


def test_what_is_printed_is_what_is_started(capsys, monkeypatch):
    started = []
    monkeypatch.setattr(launch.os, "execv", lambda path, command: started.append(command))
    assert main(["launch", "--processes", "2", "--print", *WORDS]) == 0
    printed = capsys.readouterr().out
    assert not started
    assert main(["launch", "--processes", "2", *WORDS]) == 0
    assert capsys.readouterr().out == printed == f"accelerate {' '.join(started[0][3:])}\n"


def test_two_processes_start():
    command = [sys.executable, "-m", "attention_refine.cli", "launch", "--processes", "2", "finetune", "--list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\nabn_shapes") == 2
