"""ATCON's Table 1 on clips: F1 with few labels, before and after attention consistency, with SimCLR and without.

    python benchmarks/clips_table.py                # benchmarks/results/clips_table.jsonl
    python benchmarks/clips_table.py --table        # the table of the lines there are
    python benchmarks/clips_table.py --data FOLDER --network r3d_18 --weights kinetics.safetensors --size 112 --frames 16

The clips are the embedded ones, or a folder with train/ and test/. For each seed 16 and 32 clips a class are drawn from
train/, and four arms are trained on them: ``baseline``, from fresh weights or those of the file; ``+ consistency``, which
goes on from there by the consistency loss alone, without labels; ``SimCLR``, whose network was first pretrained on all
clips of train/ without their labels; and ``SimCLR + consistency``. ``baseline, longer`` is the control: it goes on with
its labels for as many steps. Every arm is judged as it is at the end, once, on the middle clip of each video of test/, and of
the embedded clips also of ``test_intact``, where the badge tells the action as in training.

The table has macro F1 and the F1 of every class, means over the seeds, in per cent, with the 95 % interval of a bootstrap
over the test clips (the same draw for all seeds and arms), and the difference of macro F1 to the baseline in the same draws.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from repeated import fill, lines

import attention_refine as ar
from attention_refine import clips, data

RESULTS = Path(__file__).parent / "results" / "clips_table.jsonl"
ARMS = ("baseline", "+ consistency", "baseline, longer", "SimCLR", "SimCLR + consistency")
DRAWS = 2000
SIMCLR = {"temperature": 0.5, "smallest_crop": 0.35, "jitter": 0.5, "blur": 0.0}
FIELDS = (
    "data", "network", "weights", "size", "frames", "fps", "batch", "steps", "pretraining", "more", "learning_rate",
    "consistency_rate", "smallest_crop", "objective", "splits", "test_clips",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="clips", help="a folder of videos, or clips (default)")
    parser.add_argument("--network", default="r3d_18@4", help="default: r3d_18 with a sixteenth of its channels")
    parser.add_argument("--weights", help="a safetensors file; fresh ones if not given")
    parser.add_argument("--per-class", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--fps", type=float, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=90, help="supervised steps of baseline and SimCLR")
    parser.add_argument("--pretraining", type=int, default=80, help="steps of SimCLR")
    parser.add_argument("--more", type=int, default=20, help="steps of consistency, and of the control")
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--consistency-rate", type=float, default=5e-4, help="of the control as well")
    parser.add_argument("--smallest-crop", type=float, default=0.8, help="share of the frame, in supervised training")
    parser.add_argument("--objective", default="{}", help="options of AttentionConsistency, as JSON")
    parser.add_argument("--splits", nargs="+", help="that are judged; default: test, of clips also test_intact")
    parser.add_argument("--test-clips", type=int, default=200, help="at most, drawn at random, the same in every run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="a JSON line for every seed and count")
    parser.add_argument("--table", action="store_true", help="print the tables of the lines there are, and stop")
    given = parser.parse_args()
    if not given.table:
        given.splits = given.splits or (["test", "test_intact"] if given.data == "clips" else ["test"])
        shared = {name: getattr(given, name) for name in FIELDS}
        cells = [shared | {"per_class": count, "seed": seed} for seed in given.seeds for count in given.per_class]
        fill(given.results, cells, lambda **cell: one_run(argparse.Namespace(**cell)))
    print("\n".join(tables(lines(given.results))))


def one_run(cell: argparse.Namespace) -> dict[str, Any]:
    """For each split the classes of its clips, and what each arm answers, as numbers of ``classes``."""
    began = time.process_time()
    train = _rows(cell, "train")
    names = data.class_names(train)
    tests = {}
    for split in cell.splits:
        test = _rows(cell, split, names)
        tests[split] = test.shuffle(seed=0).select(range(min(cell.test_clips, len(test))))
    few, _ = data.split_few_labels(train, cell.per_class, cell.seed)
    found: dict[str, dict[str, str]] = defaultdict(dict)

    def judge(arm: str, model: ar.RefinedModel) -> None:
        for split, test in tests.items():
            judged = ar.evaluate(model, test, measures=["accuracy"], maps=[], batch_size=cell.batch, progress=False)
            for key, said in (("clips", "label"), (arm, "prediction")):
                found[split][key] = " ".join(str(sample[said]) for sample in judged.samples)

    def consistent(arm: str, start: ar.RefinedModel) -> None:
        model = copy.deepcopy(start)
        model.add_objective(ar.AttentionConsistency(**json.loads(cell.objective)))
        _fit(cell, model, few, cell.more, cell.consistency_rate, strategy="finetune", freeze_batch_norm=True)
        judge(arm, model)

    model = _fresh(cell, names)
    _fit(cell, model, few, cell.steps, cell.learning_rate)
    judge("baseline", model)
    consistent("+ consistency", model)
    _fit(cell, model, few, cell.more, cell.consistency_rate)
    judge("baseline, longer", model)

    model = _fresh(cell, names)
    model.load_state_dict(_pretrained(json.dumps(vars(cell) | {"per_class": None}, sort_keys=True)))
    _fit(cell, model, few, cell.steps, cell.learning_rate)
    judge("SimCLR", model)
    consistent("SimCLR + consistency", model)
    return {
        "classes": names, **{split: dict(answers) for split, answers in found.items()},
        "cpu": round(time.process_time() - began), "torch": torch.__version__.split("+")[0], "version": ar.__version__,
    }  # fmt: skip


def _rows(cell: argparse.Namespace, split: str, names: list[str] | None = None) -> Any:
    """A split without its masks, which nothing here looks at; embedded clips as long and as large as the network's."""
    if cell.data == "clips":
        rows = clips.make(split, size=cell.size, frames=cell.frames)
    else:
        rows = data.load_dataset(cell.data, split, class_names=names)
    return rows.remove_columns([name for name in ("mask", "bbox", "cue_mask", "cue_bbox") if name in rows.column_names])


def _fresh(cell: argparse.Namespace, names: list[str]) -> ar.RefinedModel:
    torch.manual_seed(cell.seed)
    return ar.wrap(
        cell.network, labels=names, pretrained=Path(cell.weights) if cell.weights else False,
        preprocessing={"input_size": [3, cell.frames, cell.size, cell.size], "fps": cell.fps},
    )  # fmt: skip


@lru_cache(1)
def _pretrained(of: str) -> dict[str, torch.Tensor]:
    """The weights after SimCLR: the same for every count of labels."""
    cell = argparse.Namespace(**json.loads(of))
    train = _rows(cell, "train")
    model = _fresh(cell, data.class_names(train))
    model.add_objective(ar.ContrastivePretraining(**SIMCLR))
    _fit(cell, model, train, cell.pretraining, cell.learning_rate, strategy="finetune", augment="none")
    model.objectives.clear()
    return copy.deepcopy(model.state_dict())


def _fit(
    cell: argparse.Namespace, model: ar.RefinedModel, rows: Any, steps: int, rate: float, augment: str = "default",
    **options: Any,
) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        config = ar.TrainingConfig(
            output_dir=folder, max_steps=steps, batch_size=cell.batch, learning_rate=rate, seed=cell.seed,
            warmup_ratio=0.1, save_every_epochs=None, progress=False, **options,
        )  # fmt: skip
        prepared = data.prepare(
            rows, model.preprocessing, train=True, seed=cell.seed, augment=augment, scale=(cell.smallest_crop, 1.0),
            class_names=model.labels,
        )  # fmt: skip
        ar.finetune(model, prepared, config)


# tables ---------------------------------------------------------------------------------------------------------------


def f1(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """``(..., classes)``: the F1 of each class over the last axis, 0 of one that is neither there nor answered."""
    scores = []
    for index in range(classes):
        both = ((labels == index) & (predictions == index)).sum(-1)
        either = (labels == index).sum(-1) + (predictions == index).sum(-1)
        scores.append(2 * both / np.maximum(either, 1))
    return np.stack(scores, -1)


def tables(found: list[dict[str, Any]]) -> list[str]:
    """Markdown: for every setting, split and number of labels a table of the arms."""
    settings: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for line in found:
        settings[tuple(json.dumps(line[name]) for name in (*FIELDS, "per_class"))].append(line)
    out = []
    for runs in settings.values():
        first = runs[0]
        for split in first["splits"]:
            out += [
                f"**{Path(first['data']).name}, {split}, {first['per_class']} clips a class, {first['network']}, {len(runs)} seeds**"
            ]
            out += ["", *table([run[split] for run in runs], first["classes"]), ""]
    return out


def table(runs: Sequence[dict[str, str]], classes: Sequence[str]) -> list[str]:
    answers = [{arm: np.array([int(each) for each in said.split()]) for arm, said in run.items()} for run in runs]
    count = len(answers[0]["clips"])
    draws = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    whole, drawn = {}, {}
    for arm in ARMS:
        whole[arm] = np.mean([f1(run["clips"], run[arm], len(classes)) for run in answers], 0)
        drawn[arm] = np.mean([f1(run["clips"][draws], run[arm][draws], len(classes)) for run in answers], 0)
    out = ["| arm | macro F1 | against baseline | " + " | ".join(classes) + " |", "|---" * (3 + len(classes)) + "|"]
    base = whole["baseline"].mean(), drawn["baseline"].mean(-1)
    for arm in ARMS:
        cells = [_cell(whole[arm].mean(), drawn[arm].mean(-1))]
        difference = whole[arm].mean() - base[0], drawn[arm].mean(-1) - base[1]
        cells.append("-" if arm == "baseline" else _cell(*difference, sign="+"))
        cells += [_cell(whole[arm][index], drawn[arm][:, index]) for index in range(len(classes))]
        out.append(f"| {arm} | " + " | ".join(cells) + " |")
    return out


def _cell(value: float, drawn: np.ndarray, sign: str = "") -> str:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


if __name__ == "__main__":
    main()
