"""A few maps edited by a person, on the embedded dataset whose cue lies at test: do map and prediction follow?

    python benchmarks/edited_maps.py            # seeds 0, 1, 2, one after another: about 15 minutes each on one core
    python benchmarks/edited_maps.py --seeds 1  # one of them; the table is of all that lie in --output

For each seed `abn_shapes` is trained with the head of HEAD. From there every arm goes on for STEPS steps of
`supervision_shapes`, on the same images in the same order; they differ in the objective alone. `abn` has none: the
control. 5 % of the training images, drawn by the seed, carry an edited map, which is the object's mask; every arm sees
them OFTEN more times than the others. What lies finished in --output is not run again.

HEAD, the objective of `map supervision`, the learning rates, STEPS and OFTEN were chosen on seeds 0 and 1 by the
validation images, drawn anew with a cue that lies; the others have their defaults, mining the weight of
`mining_shapes`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

import attention_refine as ar
from attention_refine import data, metrics
from attention_refine.evaluation import Evaluation
from attention_refine.evaluation.measures import MEASURES
from attention_refine.evaluation.results import column_of
from attention_refine.recipe import Recipe, Run, judge, load_split, load_splits, report, run, shipped

EDITED, OFTEN, STEPS = 0.05, 10, 456
HEAD = {"name": "abn", "site": "layer2", "branch": "light", "fade_in_steps": 0, "combine": "product"}
HEAD["hidden_channels"] = 64
ARMS = {
    "abn": [],
    "mining": [{"name": "mining", "weight": 0.01}],
    "guided inference": [{"name": "guided_inference"}],
    "map supervision": [{"name": "map_supervision", "target": "edited", "norm": "bce", "weight": 20.0}],
}
ON_MAP = ["energy_inside", "energy_on_cue", "mask_correlation"]
EVALUATION = {"measures": ["accuracy", *ON_MAP], "perturbation_images": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="train these, no report")
    parser.add_argument("--output", type=Path, default=Path("runs/edited_maps"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in given.seeds:
        one_seed(seed, given.output / f"seed{seed}", given.arms)
    if given.arms == list(ARMS):
        table(given.output)


def one_seed(seed: int, folder: Path, arms: Sequence[str]) -> None:
    """Train the base and the arms, judge each with the cue broken and intact; write a report if these are all."""

    def recipe(config: str, name: str, **model) -> Recipe:
        training = {"output_dir": str(folder / name), "seed": seed, "overwrite": True, "progress": False}
        training |= {"max_steps": STEPS} if config == "supervision_shapes" else {}
        return Recipe.load(shipped(config), {"model": model, "training": training, "evaluation": EVALUATION})

    first = recipe("abn_shapes", "before", head=HEAD)
    splits = load_splits(first.data)
    intact = load_split(first.data, "test_intact", data.class_names(splits["train"]))
    runs = {"before": finished(first, splits, intact)}
    splits["train"] = with_edits(splits["train"], seed)
    for name in arms:
        base = str(runs["before"].model_path)
        again = recipe("supervision_shapes", name, checkpoint=base, objectives=ARMS[name])
        runs[name] = finished(again, splits, intact)
    if list(arms) == list(ARMS):
        report(runs, folder / "report.html", title=f"Edited maps on the embedded dataset, seed {seed}")


def finished(recipe: Recipe, splits: dict, intact) -> Run:
    """A run judged on both tests: the one that lies there, or a new one."""
    folder = Path(recipe.training.output_dir)
    if not (folder / "intact" / "evaluation.json").exists():
        done = run(recipe, splits)
        judge(recipe, done.model, intact, folder / "intact")
        return done
    history = json.loads((folder / "history.json").read_text())
    model, page = folder / "best", folder / "report.html"
    return Run(ar.load(model), history, model, page, read(folder), splits["test"])


def with_edits(train, seed: int):
    """The training images, with an edited map (the object's mask) for some of them, and those again OFTEN times."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(train), generator=generator)[: round(EDITED * len(train))].tolist()
    maps = [torch.tensor(data.read_mask(train[row]["mask"], "the mask")).float() for row in rows]
    return data.save_edits(train, rows, maps).select([*range(len(train)), *rows * OFTEN])


def table(folder: Path) -> None:
    """Mean and spread over the seeds, and the difference to the control, paired by image."""
    found = {
        name: {
            place.name: (read(place / name), read(place / name / "intact")) for place in sorted(folder.glob("seed*"))
        }
        for name in ("before", *ARMS)
    }
    head = ["", "cue broken", "minus abn [95 %]", "cue intact", *(MEASURES[name].title.lower() for name in ON_MAP)]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for name, seeds in found.items():
        broken, intact = zip(*seeds.values())
        cells = [
            spread([100 * accuracy(e) for e in broken], ".1f"),
            "" if name in ("abn", "before") else difference(broken, [pair[0] for pair in found["abn"].values()]),
            spread([100 * accuracy(e) for e in intact], ".1f"),
        ]
        cells += [spread([on_map(e, measure) for e in broken], ".3f") for measure in ON_MAP]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{len(seeds)} seeds")


def read(folder: Path) -> Evaluation:
    return Evaluation.from_json(folder / "evaluation.json")


def accuracy(evaluation: Evaluation) -> float:
    return evaluation.summary["classification"]["accuracy"]["value"]


def on_map(evaluation: Evaluation, measure: str) -> float:
    return evaluation.summary["maps"]["model"][measure]["value"]


def spread(values: list[float], form: str) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ± {spread:{form.strip('+')}}"


def difference(ours: Sequence[Evaluation], control: Sequence[Evaluation]) -> str:
    """Points of accuracy on the same images: mean and spread over the seeds, and the interval over the images, each
    the mean of its seeds."""
    right, before = (torch.stack([column_of(e.samples, "correct") for e in each]) for each in (ours, control))
    found = metrics.paired_test(100 * right.mean(0), 100 * before.mean(0), "permutation")
    each = spread((100 * (right - before).mean(1)).tolist(), "+.1f")
    return f"{each} [{found.low:+.1f}, {found.high:+.1f}]"


if __name__ == "__main__":
    main()
