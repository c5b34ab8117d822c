"""Worker processes that are started anew and cannot be: the reason and the remedy in a sentence."""

from __future__ import annotations

import io
import multiprocessing
import re
import sys
import threading
import time
import types

import pytest
import torch
from judged import made_model
from processes import server_of
from test_folders import PREPROCESSING
from training_runs import worker_killed

from attention_refine import shapes
from attention_refine.data import DataError, load_dataset, prepare
from attention_refine.data.loader import Loader
from attention_refine.evaluation import evaluate
from attention_refine.training import TrainingConfig, finetune


@pytest.fixture
def spawned():
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


SAID = (
    r"the dataset cannot be sent to worker processes, which are started by 'spawn' here .*; or num_workers=0 in place"
)


def test_a_lambda_in_the_augmentation(spawned, tmp_path):
    data = prepare(shapes.make("train", 12, size=64), made_model().preprocessing, train=True, augment=lambda item: item)
    config = TrainingConfig(output_dir=str(tmp_path), epochs=1, batch_size=6, num_workers=2, progress=False)
    with pytest.raises(DataError, match=SAID + " of 2$"):
        finetune(made_model(), data, config)


class Holding(torch.utils.data.Dataset):
    """A dataset that keeps something open, as those of HDF5 and LMDB do."""

    def __init__(self, what):
        self.what = what

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return {"pixel_values": torch.zeros(3, 64, 64), "labels": torch.tensor(0)}


@pytest.mark.parametrize("what", [threading.Lock(), (i for i in range(3)), io.BufferedReader(io.BytesIO())])
def test_what_is_held_open_in_a_dataset_of_ones_own(spawned, what):
    with pytest.raises(DataError, match=SAID):
        list(Loader(Holding(what), num_workers=1))
    with pytest.raises(DataError, match=SAID):
        evaluate(made_model(), Holding(what), num_workers=1, progress=False)
    assert len(list(Loader(Holding(what), num_workers=0))) == 2


def test_a_dataset_that_worker_processes_do_not_find(spawned):
    """As one of a notebook, or of a script that starts itself again."""
    gone = types.ModuleType("a_module_of_this_process")
    gone.Kept = type("Kept", (Holding,), {"__module__": gone.__name__})
    sys.modules[gone.__name__] = gone
    try:
        with pytest.raises(DataError, match=r"worker processes, which 'spawn' starts anew, ended as they began"):
            list(Loader(gone.Kept(1), num_workers=1))
    finally:
        del sys.modules[gone.__name__]


def test_what_an_item_says_is_left_as_it_is(tmp_path):
    (tmp_path / "cat").mkdir()
    for i in range(2):
        (tmp_path / "cat" / f"{i}.png").write_bytes(b"no picture")
    items = prepare(load_dataset(tmp_path), PREPROCESSING)
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^row 0 \(.*0\.png\) cannot be read as an image"):
            list(Loader(items, num_workers=workers))


# --- workers that end or hang ------------------------------------------------------------------------------------------


class Slow(Holding):
    def __getitem__(self, row):
        if row == 7:
            time.sleep(60)
        return torch.zeros(1)


def test_a_worker_that_hangs_is_said_with_the_rows():
    loader = Loader(Slow(None), batch_sampler=[[0, 1], [6, 7], [2, 3]], num_workers=1, timeout=3)
    with pytest.raises(
        DataError, match=r"nothing for 3 seconds at one of the rows 6, 7: .* with worker_timeout; or num_w"
    ):
        list(loader)


def test_a_worker_that_has_ended_is_said_with_the_rows_or_the_files_of_a_stream():
    """torch says it wherever the training process is: see also test_a_run_whose_worker_is_killed."""
    torch_says = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    loader = Loader(Holding(None), batch_sampler=[[0, 1], [0], [1]], num_workers=1)
    batches = iter(loader)
    next(batches)
    said = loader._lost(torch_says)
    assert "has ended (DataLoader worker (pid 12) is killed by signal: Killed.) at one of the rows 0, 1: memory" in said
    of_stream = Loader([0], batch_sampler=[[(5, {"image": {"path": "3.tar/a.png", "bytes": b""}, "label": 1})]])
    next(iter(of_stream._waited))
    assert of_stream.waited() == " at one of the rows 5 (3.tar/a.png)"
    assert loader._lost(ValueError("DataLoader worker (pid 12)")) is None


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_ended_as_it_handed_a_batch_over(error):
    """A batch lies in memory that its worker holds: a worker killed before it is fetched is a connection that ends."""
    loader = Loader(Holding(None), batch_sampler=[[0, 1], [0], [1]], num_workers=1)
    next(iter(loader))
    assert f"has ended ({type(error).__name__} as it handed a batch over) at one of the rows" in loader._lost(error)
    of_a_reader = type(error)("Caught ConnectionResetError in DataLoader worker process 0. Original Traceback ...")
    assert loader._lost(of_a_reader) is None


def test_a_run_whose_worker_is_killed(tmp_path):
    process = server_of("training_runs").Process(target=worker_killed, args=(tmp_path,))
    process.start()
    process.join(300)
    said = (tmp_path / "said").read_text()
    assert re.search(r"a worker process that loads images has ended \((DataLoader worker \(pid|\w+Error as it)", said)
    assert "memory that ran out is the usual cause" in said
