"""Runs for training/test_sharing_out.py that begin, or end, on two processes; each process of torchrun calls this."""

from __future__ import annotations

import sys

import pytest
from accelerate import Accelerator
from training_runs import asked_to_end, train

from attention_refine.training.interruption import Interrupted

# No dropout: what a process draws cannot be what another number of processes would have drawn.
PLAIN = {"norm": "layer", "dropout": 0.0, "size": 35, "batch_size": 4, "ema_decay": 0.9, "max_prediction_drift": 1.0}

if __name__ == "__main__":
    folder, part = sys.argv[1:]
    if part == "begin":
        train(f"{folder}/whole", **PLAIN)
        with pytest.raises(Interrupted), asked_to_end(5 if Accelerator().is_main_process else None):
            train(f"{folder}/parts", **PLAIN)
    else:
        train(f"{folder}/parts", resume=True, **PLAIN)
