"""A share of the annotations is kept, of every class, and no image is lost."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from attention_refine import shapes
from attention_refine.data import DataError, describe, keep_annotations, load_dataset
from attention_refine.recipe import DataOptions
from attention_refine.recipe.building import load_splits


def annotated(dataset, column="mask") -> list[int]:
    return [row for row, cell in enumerate(dataset[column]) if cell is not None]


@pytest.fixture(scope="module")
def drawn():
    return shapes.make("train", n=60, size=32)


def test_a_share_of_every_class_keeps_its_masks_and_every_image_is_there(drawn):
    few = keep_annotations(drawn, 0.2, seed=1)
    assert len(few) == len(drawn) == 60 and few.features == drawn.features
    assert few["label"] == drawn["label"]
    kept = annotated(few)
    counts = {label: sum(drawn["label"][row] == label for row in kept) for label in set(drawn["label"])}
    of_class = {label: list(drawn["label"]).count(label) for label in counts}
    assert counts == {label: max(1, round(0.2 * n)) for label, n in of_class.items()}
    assert all(np.array_equal(few[row]["mask"], drawn[row]["mask"]) for row in kept)
    assert describe(few).masks == len(kept)


def test_more_of_a_seed_is_a_superset_and_another_seed_is_another_draw(drawn):
    draws = [set(annotated(keep_annotations(drawn, share, seed=3))) for share in (0.05, 0.2, 0.5, 1.0)]
    assert all(fewer < more for fewer, more in zip(draws, draws[1:])) and len(draws[-1]) == 60
    assert len(draws[0]) == 6  # one of each class at least
    assert set(annotated(keep_annotations(drawn, 0.2, seed=4))) != draws[1]


def test_boxes_masks_and_groups_of_a_folder(tmp_path):
    lines = []
    for n in range(8):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{n}.png")
        box = f', "bbox": [1, 1, {n + 2}, 4]' if n < 6 else ""
        lines.append(f'{{"file_name": "{n}.png", "label": "{"ab"[n % 2]}", "group": "g{n % 4}"{box}}}')
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    few = keep_annotations(load_dataset(tmp_path), 0.34, seed=0)
    kept = annotated(few, "bbox")
    assert len(kept) == 2 and max(kept) < 6 and [few["label"][row] for row in kept] in ([0, 1], [1, 0])
    assert few["bbox"][kept[0]] == [[1, 1, kept[0] + 2, 4]] and len(set(few["group"])) == 4


def test_a_recipe_keeps_them_of_the_training_images_alone():
    splits = load_splits(DataOptions(source="shapes", annotated=0.05))
    trained, validated = describe(splits["train"]), describe(splits["validation"])
    assert trained.masks == sum(max(1, round(0.05 * n)) for n in trained.classes.values()) < trained.images
    assert validated.masks == validated.images and describe(splits["test"]).masks == describe(splits["test"]).images


def test_what_cannot_be_drawn_from_is_refused(drawn):
    with pytest.raises(ValueError, match=r"must be above 0 and at most 1, got 1\.5"):
        keep_annotations(drawn, 1.5, seed=0)
    with pytest.raises(DataError, match="no image has a mask, a box or an edited map"):
        keep_annotations(drawn.select_columns(["image", "label"]), 0.5, seed=0)
    with pytest.raises(DataError, match="load the dataset without streaming"):
        keep_annotations(drawn.to_iterable_dataset(), 0.5, seed=0)
