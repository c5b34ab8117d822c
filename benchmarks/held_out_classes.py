"""Few-shot classification and retrieval on classes that were never trained on: BR-NPA's parts beside plain pooling.

    python benchmarks/held_out_classes.py --data cub20 --weights resnet18.safetensors --output runs/held_out

For each seed half the classes are drawn. Every arm is trained on their images in train/, and judged on all images of the
other classes: few-shot accuracy over 600 episodes (5 classes, 15 queries each, the same episodes for every arm), and each
image as a query among all others. ``ImageNet`` is the backbone before training, ``low`` and ``high`` are BR-NPA's on the
usual and on a grid twice as fine; with ``triplet`` the triplet loss is added, four images of a class at a time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import datasets
import torch
from brnpa_photographs import settings
from repeated import Figures, add_arguments, each, table

import attention_refine as ar
from attention_refine import recipe as recipes

ARMS = {  # the arm of brnpa_photographs.py, and whether the triplet loss is added
    "ImageNet": ("plain", False),
    "plain": ("plain", False),
    "low": ("low", False),
    "high": ("high", False),
    "plain, triplet": ("plain", True),
    "low, triplet": ("low", True),
}
COLUMNS = dict.fromkeys(("5-way 1-shot", "5-way 5-shot", "mAP", "rank 1", "rank 5"), 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, seeds=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--mixed-precision", default="bf16", help="no where the machine has no fast bf16")
    given = parser.parse_args()
    table(each(given, one_seed), COLUMNS, against="plain")


def one_seed(folder: Path, weights: Path, seed: int, given: argparse.Namespace) -> Figures:
    train = ar.data.load_dataset(str(folder), "train")
    names = ar.data.class_names(train)
    test = ar.data.load_dataset(str(folder), "test", class_names=names)
    drawn = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    trained_on, held_out = drawn[: len(names) // 2], drawn[len(names) // 2 :]
    seen = of_classes(train, trained_on)
    unseen = datasets.concatenate_datasets([of_classes(train, held_out), of_classes(test, held_out)])
    found = {}
    for arm in given.arms:
        base, triplet = ARMS[arm]
        recipe = settings(folder, weights, seed, base, given)
        if triplet:
            recipe.model.objectives, recipe.training.images_of_a_class = ["triplet"], 4
        torch.manual_seed(seed)
        model = recipes.build_model(recipe.model, names)  # the other classes' rows of the classifier are never read
        if arm != "ImageNet":
            with tempfile.TemporaryDirectory() as scratch:
                recipe.training.output_dir = scratch
                ar.finetune(model, recipes.prepare_training(recipe, model, seen), recipe.training)
        model.to("cuda" if torch.cuda.is_available() else "cpu")  # the untrained one, too
        found[arm] = judge(model.eval(), unseen, given.episodes)
    return found


def of_classes(dataset: datasets.Dataset, classes: list[int]) -> datasets.Dataset:
    return dataset.select([row for row, label in enumerate(dataset["label"]) if label in classes])


def judge(model: ar.RefinedModel, dataset: datasets.Dataset, episodes: int) -> dict[str, float]:
    found = {
        f"5-way {shots}-shot": ar.few_shot(
            model, dataset, shots=shots, episodes=episodes, progress=False
        ).accuracy.value
        for shots in (1, 5)
    }
    ranked = ar.retrieval(model, dataset, progress=False)
    return found | {"mAP": ranked.mean_average_precision.value, "rank 1": ranked.cmc(1), "rank 5": ranked.cmc(5)}


if __name__ == "__main__":
    main()
