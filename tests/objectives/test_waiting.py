"""An objective whose annotations never come says so once, in any loop; one that sees some says nothing."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from cases import BY_NAME

import attention_refine as ar
from attention_refine.objectives._waiting import PATIENCE

CASE = BY_NAME["resnet18"]
LABELS = torch.tensor([1, 4, 0])
ROWS = torch.tensor([[4, 2, 7], [0, 1, 9], [3, 8, 4]])  # an epoch of two steps, and the next one's first
VOID = torch.full((3, 1, 64, 64), 255, dtype=torch.uint8)
MASK = torch.zeros_like(VOID).index_fill_(2, torch.arange(30), 1)
OBJECTIVES = {
    "map_supervision": lambda: ar.MapSupervision(),
    "transplant": lambda: ar.Transplant(),
    "transplant in place": lambda: ar.Transplant(replace=True),
}


@pytest.fixture(scope="module")
def bare() -> ar.RefinedModel:
    return CASE.wrap("abn").train()


def said(bare: ar.RefinedModel, objective: ar.Objective, batches: list[dict]) -> list[str]:
    model = copy.deepcopy(bare)
    model.add_objective(objective)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for batch in batches:
            model(CASE.images(), **batch)
    return [str(each.message) for each in found]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_epoch_without_annotations_is_said_once(bare, name):
    epochs = [{"labels": LABELS, "index": rows} for rows in (*ROWS, *ROWS)]
    (sentence,) = said(bare, OBJECTIVES[name](), epochs)
    assert sentence.startswith(
        f"{name.split()[0]} saw nothing to learn from in a whole epoch, so it adds nothing: it reads"
    )
    assert "edited_map or mask or boxes" in sentence and "a batch has pixel_values, labels." in sentence
    assert "collate_fn=ar.data.collate (of transformers.Trainer data_collator=)" in sentence
    assert said(bare, OBJECTIVES[name](), epochs[:2]) == []
    void = [{**batch, "mask": VOID} for batch in epochs]  # a column with nothing in it is no annotation
    (sentence,) = said(bare, OBJECTIVES[name](), void)
    assert "a batch has pixel_values, labels, mask, which is void (255) all over. Give the images" in sentence


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_end_of_an_epoch_is_enough(bare, name):
    objective = OBJECTIVES[name]()
    model = copy.deepcopy(bare)
    model.add_objective(objective)
    for mask, expected in ((VOID, 1), (None, 0)):
        model(CASE.images(), labels=LABELS, mask=mask) if expected else None
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            model.objectives[objective.name].waiting.epoch_ended()
        assert len(found) == expected, "once, and not before a training pass"


def test_where_images_have_no_number_so_many_steps_have_to_do(bare):
    steps = [{"labels": LABELS}] * (PATIENCE + 2)
    (sentence,) = said(bare, ar.MapSupervision(target="boxes"), steps)
    assert f"in its first {PATIENCE} training steps" in sentence and "it reads boxes" in sentence
    assert said(bare, ar.MapSupervision(target="boxes"), steps[: PATIENCE - 1]) == []


def test_one_annotated_batch_is_enough(bare):
    epochs = [{"labels": LABELS, "index": rows} for rows in (*ROWS, *ROWS)]
    assert said(bare, ar.MapSupervision(), [epochs[0], {**epochs[1], "mask": MASK}, *epochs[2:]]) == []


def test_evaluation_unlabelled_images_and_the_same_batch_again_are_no_training_steps(bare):
    repeated = [{"labels": LABELS, "index": ROWS[0]}, {"labels": LABELS, "index": ROWS[0], "update": 1}]
    assert said(bare, ar.MapSupervision(), repeated) == []
    assert said(bare, ar.MapSupervision(), [{"index": ROWS[0]}] * 2) == []
    assert said(copy.deepcopy(bare).eval(), ar.MapSupervision(), repeated[:1] * 2) == []
