"""ATCON's Table 1 on clips: F1 with few labels, before and after attention consistency, with SimCLR and without.

    python benchmarks/clips_table.py --output runs/table1
    python benchmarks/clips_table.py --data FOLDER --network r3d_18 --weights kinetics.safetensors --output runs/table1

The clips are the embedded ones, or a folder with train/ and test/. For each seed 16 and 32 clips a class are drawn from
train/, and four arms are trained on them: ``baseline``, from fresh weights or those of the file; ``+ consistency``, which
goes on from there by the consistency loss alone, without labels; ``SimCLR``, whose network was first pretrained on all
clips of train/ without their labels; and ``SimCLR + consistency``. ``baseline, longer`` is the control: it goes on with
its labels for as many steps. Every arm is judged as it is at the end, once, on test/: the middle clip of each video.

The table has macro F1 and the F1 of every class, means over the seeds, in per cent, with the 95 % interval of a bootstrap
over the test clips (the same draw for all seeds and arms), and the difference of macro F1 to the baseline in the same draws.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from repeated import once

import attention_refine as ar
from attention_refine import data

DRAWS = 2000
Answers = dict[str, list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="clips", help="a folder of videos, or clips (default)")
    parser.add_argument("--network", default="r3d_18@8", help="default: r3d_18 with an eighth of its channels")
    parser.add_argument("--weights", type=Path, help="a safetensors file; fresh ones if not given")
    parser.add_argument("--per-class", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--fps", type=float, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=120, help="supervised steps of baseline and SimCLR")
    parser.add_argument("--pretraining", type=int, default=200, help="steps of SimCLR")
    parser.add_argument("--more", type=int, default=40, help="steps of consistency, and of the control")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--consistency-rate", type=float, default=1e-4)
    parser.add_argument("--objective", default="{}", help="options of AttentionConsistency, as JSON")
    parser.add_argument("--test-clips", type=int, default=200, help="at most, drawn at random, the same in every run")
    parser.add_argument("--output", type=Path, required=True, help="where every run's answers go")
    given = parser.parse_args()
    runs = {
        (count, seed): once(
            given.output, f"{Path(given.data).name}-{count}-{seed}", partial(one_run, count, seed, given)
        )
        for count in given.per_class
        for seed in given.seeds
    }
    for count in given.per_class:
        files = [runs[count, seed] for seed in given.seeds]
        print(f"\n{count} clips a class, {len(files)} seeds")
        table([json.loads(file.read_text()) for file in files])


def one_run(count: int, seed: int, given: argparse.Namespace) -> dict[str, Answers]:
    """The labels of the test clips and what each arm answers."""
    train = data.load_dataset(given.data, "train")
    names = data.class_names(train)
    test = data.load_dataset(given.data, "test", class_names=names)
    test = test.shuffle(seed=0).select(range(min(given.test_clips, len(test))))
    few, _ = data.split_few_labels(train, count, seed)
    torch.manual_seed(seed)
    fresh = ar.wrap(
        given.network, labels=names, pretrained=given.weights or False,
        preprocessing={"input_size": [3, given.frames, given.size, given.size], "fps": given.fps},
    )  # fmt: skip
    fit, found = partial(_fit, seed=seed, given=given), {}

    def judge(arm: str, model: ar.RefinedModel) -> None:
        samples = ar.evaluate(
            model, test, measures=["accuracy"], maps=[], batch_size=given.batch, progress=False
        ).samples
        found[arm] = {name: [names[sample[name]] for sample in samples] for name in ("label", "prediction")}

    def consistent(arm: str, start: ar.RefinedModel) -> None:
        model = copy.deepcopy(start)
        model.add_objective(ar.AttentionConsistency(**json.loads(given.objective)))
        fit(model, few, given.more, given.consistency_rate, strategy="finetune")
        judge(arm, model)

    pretrained = copy.deepcopy(fresh)
    fit(fresh, few, given.steps, given.learning_rate)
    judge("baseline", fresh)
    consistent("+ consistency", fresh)
    longer = copy.deepcopy(fresh)
    fit(longer, few, given.more, given.consistency_rate)
    judge("baseline, longer", longer)

    pretrained.add_objective(ar.ContrastivePretraining(temperature=0.5, smallest_crop=0.35, jitter=0.5, blur=0.0))
    fit(pretrained, train, given.pretraining, given.learning_rate, strategy="finetune", augment="none")
    pretrained.objectives.clear()
    fit(pretrained, few, given.steps, given.learning_rate)
    judge("SimCLR", pretrained)
    consistent("SimCLR + consistency", pretrained)
    return found


def _fit(
    model: ar.RefinedModel, clips: Any, steps: int, rate: float, *, seed: int, given: argparse.Namespace,
    strategy: str = "combined", augment: str = "default",
) -> None:  # fmt: skip
    going_on = strategy == "finetune" and "consistency" in model.objectives
    with tempfile.TemporaryDirectory() as folder:
        config = ar.TrainingConfig(
            output_dir=folder, max_steps=steps, batch_size=given.batch, learning_rate=rate, seed=seed, strategy=strategy,
            warmup_ratio=0.1, freeze_batch_norm=going_on, save_every_epochs=None, progress=False,
        )  # fmt: skip
        prepared = data.prepare(
            clips, model.preprocessing, train=True, seed=seed, augment=augment, class_names=model.labels,
        )  # fmt: skip
        ar.finetune(model, prepared, config)


def f1(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """``(..., classes)``: the F1 of each class over the last axis, 0 of one that is neither there nor answered."""
    scores = []
    for name in classes:
        both = ((labels == name) & (predictions == name)).sum(-1)
        either = (labels == name).sum(-1) + (predictions == name).sum(-1)
        scores.append(2 * both / np.maximum(either, 1))
    return np.stack(scores, -1)


def table(runs: list[Mapping[str, Answers]]) -> None:
    classes = sorted({label for run in runs for answers in run.values() for label in answers["label"]})
    count = len(next(iter(runs[0].values()))["label"])
    draws = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    whole, drawn = defaultdict(list), defaultdict(list)
    for run in runs:
        for arm, answers in run.items():
            labels, predictions = np.array(answers["label"]), np.array(answers["prediction"])
            whole[arm].append(f1(labels, predictions, classes))
            drawn[arm].append(f1(labels[draws], predictions[draws], classes))
    print("| arm | macro F1 | against baseline | " + " | ".join(classes) + " |")
    print("|---" * (3 + len(classes)) + "|")
    base = np.mean(drawn["baseline"], 0).mean(-1), np.mean(whole["baseline"], 0).mean()
    for arm in whole:
        value, sample = np.mean(whole[arm], 0), np.mean(drawn[arm], 0)
        cells = [_cell(value.mean(), sample.mean(-1))]
        cells.append("" if arm == "baseline" else _cell(value.mean() - base[1], sample.mean(-1) - base[0], sign="+"))
        cells += [_cell(value[k], sample[:, k]) for k in range(len(classes))]
        print(f"| {arm} | " + " | ".join(cells) + " |")


def _cell(value: float, drawn: np.ndarray, sign: str = "") -> str:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{100 * value:{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


if __name__ == "__main__":
    main()
