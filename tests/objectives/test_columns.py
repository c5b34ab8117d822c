"""What objectives declare of the batch: the columns that each reads and adds, and what follows from it."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass

import pytest
import torch
from cases import BY_NAME

import attention_refine as ar
from attention_refine.core.model_inputs import Watched
from attention_refine.hf_auto.model import RefinedForImageClassification
from attention_refine.training import TrainingConfig, TrainingError, finetune

CASE = BY_NAME["resnet18"]
LABELS = torch.tensor([1, 4, 0])
ALWAYS = {"pixel_values", "labels", "smoothing"}


def full_batch() -> dict:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(3, 1, 64, 64, dtype=torch.uint8)
    mask[:, :, 5:40, 10:50] = 1
    boxes = [torch.tensor([[10.0, 5.0, 50.0, 40.0]])] * 3
    return {
        "pixel_values": CASE.images(), "labels": LABELS, "smoothing": 0.0, "mask": mask, "boxes": boxes, "cue": 1 - mask,
        "edited_map": mask.float(), "edited": torch.tensor([True, False, True]), "index": torch.arange(3),
        "group": torch.tensor([0, 1, 0]), "mask_confidence": torch.ones(3),
        "views": torch.randn(3, 2, 3, 64, 64, generator=generator),
    }  # fmt: skip


@pytest.mark.parametrize(
    "objective",
    [
        "mining", "map_supervision", "group_dro", "transplant", "guided_inference", "contrastive", "triplet", "darc",
        ar.MapSupervision(target="cue"), ar.Transplant(replace=True), ar.MapSupervision(target="edited"),
    ],
    ids=lambda each: each if isinstance(each, str) else f"{each.name}-{len(each.annotations)}",
)  # fmt: skip
def test_each_reads_and_adds_what_it_declares(objective):
    model = CASE.wrap(head="abn", objectives=[objective]).train()
    (made,) = model.objectives.values()
    asked: set[str] = set()
    prepared = made.prepare(model, Watched(full_batch(), asked))
    assert set(prepared) - set(full_batch()) <= set(made.adds)
    output = model.run(prepared["pixel_values"])
    if made.needs_embedding:
        output.embedding = torch.randn(3, 8)
    made(model, Watched(prepared, asked), output)
    assert set(output.carried or {}) <= set(made.adds)
    assert asked <= {*ALWAYS, *made.reads, *made.adds}


@dataclass(frozen=True)
class DepthConfig:
    weight: float = 1.0


class Depth(ar.Objective):
    name = "depth_loss"
    config_class = DepthConfig
    reads = ("depth",)
    adds = ("darc_map",)

    def forward(self, model, batch, output):
        return {"depth_loss": output.logits.mean() * batch["depth"].mean()}


def test_a_column_of_ones_own_is_in_the_signature_and_no_surprise():
    model = CASE.wrap(objectives=[Depth()])
    for forward in (model.forward, RefinedForImageClassification.of(model).forward):
        assert inspect.signature(forward).parameters["depth"].kind is inspect.Parameter.KEYWORD_ONLY
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.eval()(CASE.images(), depth=torch.ones(3))  # without labels nothing reads it now, and it is known
    with pytest.warns(UserWarning, match="depht=.* is read by nothing"):
        model(CASE.images(), depht=torch.ones(3))


def test_two_objectives_do_not_add_the_same_column():
    said = "objectives 'darc' and 'depth_loss' both add a column 'darc_map'"
    with pytest.raises(ValueError, match=said):
        CASE.wrap(head="abn", objectives=["darc", Depth()])
    model = CASE.wrap(head="abn", objectives=["darc"])
    with pytest.raises(ValueError, match=said):
        model.add_objective(Depth())
    assert list(model.objectives) == ["darc"]


def test_a_column_of_maps_does_not_act_in_place_of_the_heads(tmp_path):
    items = [
        {"pixel_values": torch.randn(3, 64, 64), "labels": torch.tensor(i % 5), "maps": torch.ones(1, 4, 4)}
        for i in range(4)
    ]
    config = TrainingConfig(output_dir=str(tmp_path), epochs=1, batch_size=2, progress=False)
    with pytest.raises(TrainingError, match="a column 'maps', which would act in place of the head's map"):
        finetune(CASE.wrap(head="abn"), items, config)
