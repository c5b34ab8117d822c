"""The published protocols: their commands are whole, their configs read the sets as they unpack, their page is made of the file."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from published_sets import SETS, photograph

from attention_refine import cli
from attention_refine.commands._sections import read_overrides
from attention_refine.data import check, class_names, load_dataset
from attention_refine.recipe import Recipe, shipped

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "path/to/cub200_2010": "cub_2010", "path/to/CUB_200_2011": "cub_2011", "path/to/stanford_dogs": "stanford_dogs",
    "path/to/VOCdevkit/VOC2012": "voc", "path/to/VOCdevkit/VOC2007": "voc_2007", "path/to/cifar-100-binary": "cifar100",
    "path/to/cifar-10-batches-bin": "cifar10", "path/to/svhn": "svhn", "ILSVRC/imagenet-1k": "imagenet",
    "path/to/waterbird_complete95_forest2water2": "waterbirds", "path/to/waterbird_1.0_forest2water2": "waterbirds",
    "path/to/spawrious224": "spawrious_whole", "path/to/bg_challenge": "imagenet9",
    "path/to/Market-1501-v15.09.15": "market1501",
}  # fmt: skip


@pytest.fixture(scope="module")
def published():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import published

        yield published


def commands(published) -> list[list[str]]:
    """Those of the command line; the others are scripts of benchmarks/."""
    every = [shlex.split(command) for each in published.protocols() for command in each["commands"]]
    scripts = [words[1] for words in every if words[0] == "python"]
    assert scripts and all((ROOT / script).is_file() for script in scripts)
    return [words for words in every if words[0] != "python"]


def parsed(words: list[str]):
    """A command's arguments, whatever starts it: ``attention-refine``, or accelerate with the module."""
    words = words[words.index("attention-refine" if "attention-refine" in words else "attention_refine.cli") + 1 :]
    return cli._parser(words).parse_args(words)


def recipes(published) -> list[tuple[str, Recipe]]:
    found = []
    for words in commands(published):
        given = parsed(words)
        found.append((" ".join(words), Recipe.load(shipped(given.config), read_overrides(given))))
    return found


def example(source: str, folder: Path) -> Path:
    folder.mkdir()
    if EXAMPLES[source] == "voc_2007":
        here = SETS["voc"](folder)
        (here / "ImageSets" / "Main" / "test.txt").write_text("2008_000004\n")  # of 2007 the test has its annotations
        return here
    if EXAMPLES[source] == "spawrious_whole":
        here = SETS["spawrious"](folder)
        for draw in "01":
            for dog in ("bulldog", "corgi", "dachshund", "labrador"):
                photograph(here / draw / "mountain" / dog / f"mountain_{dog}_0.png", 90)
        return here
    return SETS[EXAMPLES[source]](folder)


def test_every_command_is_whole_and_its_splits_are_those_of_the_set_as_it_unpacks(published, tmp_path):
    made: dict[str, Path] = {}
    for n, (command, recipe) in enumerate(recipes(published)):
        options = recipe.data
        if options.source not in made:
            made[options.source] = example(options.source, tmp_path / str(n))
        folder = made[options.source]
        train = load_dataset(folder, options.train_split)
        for split in (options.validation, options.test_split):
            if isinstance(split, str):
                there = load_dataset(folder, split, class_names=class_names(train))
                assert len(there) > 0, command
    assert all(check(folder).problems == [] for folder in made.values())


def test_a_split_that_evaluate_asks_for_is_one_of_the_set(published, tmp_path):
    asked = [parsed(words) for words in commands(published) if "evaluate" in words]
    folder = SETS["imagenet9"](tmp_path)
    assert asked and all(len(load_dataset(folder, given.split)) for given in asked)


def test_every_config_of_a_published_set_is_one_of_a_protocol(published):
    told = {parsed(words).config for words in commands(published)}
    waiting = {
        file.stem
        for file in (ROOT / "hub_configs").glob("*.yaml")
        if Recipe.load(file).data.source in EXAMPLES and "contrastive" not in file.stem  # pretraining has no table
    }
    assert told == waiting and all(each["config"] in {*told, None} for each in published.protocols())


def test_what_one_command_goes_on_from_is_what_the_one_before_leaves(published):
    left: set[str] = set()
    for command, recipe in recipes(published):
        if recipe.model.checkpoint is not None:
            assert str(Path(recipe.model.checkpoint).parent) in left, command
        left.add(recipe.training.output_dir)


class ByBrightness(torch.nn.Module):
    """Of 4 classes the one that a picture's brightness names: 50 (original) 0, 80 (mixed_same) 1, 110 (mixed_rand) 2."""

    def __init__(self, labels: list[str]):
        super().__init__()
        self.labels, self.preprocessing = labels, {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear"}
        self.none = torch.nn.Parameter(torch.zeros(()))

    def forward(self, pixels):
        first = ((pixels.mean((1, 2, 3)) * 255 - 50) / 30).round().long()
        return SimpleNamespace(logits=torch.nn.functional.one_hot(first, len(self.labels)))


def test_the_backgrounds_challenge_counts_a_class_for_the_one_of_nine_that_it_belongs_to(published, tmp_path):
    import backgrounds_challenge as challenge

    folder = SETS["imagenet9"](tmp_path)  # one image of each of two classes
    model = ByBrightness(["tench", "terrier", "cock", "truck"])
    of_class = {"0": 0, "1": 1, "2": -1, "3": 0}
    found = [challenge.accuracy(model, folder, split, of_class) for split in challenge.VARIATIONS]
    assert found == [0.5, 0.5, 0.0]  # always dog, always bird, never one of the nine
    assert challenge.accuracy(ByBrightness(["01_bird", "00_dog"]), folder, "original", None) == 0.5
    with pytest.raises(ValueError, match="the network has 4 classes, not ImageNet-9's: say --map"):
        challenge.accuracy(model, folder, "original", None)
    with pytest.raises(ValueError, match="the map is of 1 classes and the network has 4"):
        challenge.accuracy(model, folder, "original", {"0": 0})


def test_a_row_says_where_its_number_is_from_and_what_was_measured_here(published):
    cells = {"arm": "ABN", "measure": "error", "published": "22.5", "from": "a paper", "known": "read", "ours": None}
    assert published.row(cells) == "| ABN | error | 22.5 |  | a paper |"
    assert published.row({**cells, "known": "recalled"}).endswith("| a paper (from memory, not checked) |")
    assert "| not to be had |" in published.row({**cells, "published": None})
    ours = {"value": "22.9 ± 0.2", "by": "somebody", "version": "0.1.0", "seeds": 3}
    assert "| 22.9 ± 0.2 (somebody, 0.1.0, 3 seeds) |" in published.row({**cells, "ours": ours})
    with pytest.raises(ValueError, match="known 'heard' is not one of read, quoted, recalled"):
        published.row({**cells, "known": "heard"})
    assert {row["known"] for each in published.protocols() for row in each["rows"]} <= set(published.SAID)
