"""What a run says: the data before, a line an epoch, the verdict after; and an objective that would do nothing, at the start."""

from __future__ import annotations

import pytest
import timm
from torch.utils.data import default_collate
from training_runs import TinyImages, TinyModel

import attention_refine as ar
from attention_refine import data, shapes
from attention_refine.training import TrainingConfig, TrainingError, finetune
from attention_refine.training.choosing import Choice
from attention_refine.training.console import data_line, epoch_line
from attention_refine.training.kinds import check_annotations


def test_a_line_an_epoch():
    entry = {
        "epoch": 3,
        "step": 9,
        "train/loss": 0.41234,
        "eval/accuracy": 0.8666,
        "eval/mask_correlation": 0.61,
        "eval/images": 60,
    }
    best = Choice({"epoch": 2, "step": 6}, [6])
    config = TrainingConfig()
    assert epoch_line(entry, 40, config, best) == (
        "epoch 3 of 40: loss 0.412, accuracy 0.867, mask_correlation 0.610; best: epoch 2"
    )
    assert epoch_line({"epoch": 3, "train/loss": 0.5}, None, config, None) == "epoch 3: loss 0.5"
    entry["eval/macro_f1"] = 0.7
    assert "macro_f1 0.700, accuracy" in epoch_line(entry, 4, TrainingConfig(monitor="macro_f1"), best)


def test_a_run_says_data_epochs_and_verdict(tmp_path, capsys):
    config = TrainingConfig(output_dir=str(tmp_path), epochs=2, batch_size=8)
    result = finetune(
        TinyModel(), TinyImages(16), config, eval_dataset=TinyImages(9, masks=True), collate=default_collate
    )
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[:2] == ["training: 16 images", "validation: 9 images"]
    assert [line.split(":")[0] for line in lines[2:4]] == [
        "epoch 1 of 2",
        "epoch 2 of 2",
    ] and "mask_correlation" in lines[3]
    assert lines[-1] == result.verdict and result.verdict.startswith(
        "best: epoch 2 of 2, the last: 9 validation images"
    )
    finetune(
        TinyModel(),
        TinyImages(16),
        TrainingConfig(**config.to_dict() | {"progress": False, "overwrite": True}),
        collate=default_collate,
    )
    assert capsys.readouterr().out == ""


def prepared(model, columns=()):
    images = shapes.make("train").select(range(4))
    kept = [name for name in images.column_names if name in ("image", "label", *columns)]
    return data.Prepared(images.select_columns(kept), model.preprocessing)


def test_a_summary_of_the_data():
    model = ar.wrap(timm.create_model("test_resnet", num_classes=6))
    assert data_line("training", prepared(model, ["mask"])).startswith(
        "training: 4 images, 6 classes, 4 masks, 0 boxes"
    )


@pytest.mark.parametrize(
    ("options", "columns", "said"),
    [
        (
            {"target": "edited"},
            ["mask"],
            r"map_supervision would do nothing: it reads edited_map, .* has 4 mask\. .*target='mask'",
        ),
        ({"target": "mask"}, [], r"reads mask, and of the annotations the training data has none\."),
    ],
)
def test_an_objective_that_would_do_nothing_is_refused_at_the_start(options, columns, said, tmp_path):
    model = ar.wrap(
        timm.create_model("test_resnet", num_classes=6), head="abn", objectives=[ar.MapSupervision(**options)]
    )
    with pytest.raises(TrainingError, match=said):
        finetune(model, prepared(model, columns), TrainingConfig(output_dir=str(tmp_path), progress=False))
    check_annotations(model, TinyImages(4)), "a dataset that does not say is not judged"


def test_one_that_reads_what_is_there_is_not():
    for target in ("mask", "auto"):
        model = ar.wrap(
            timm.create_model("test_resnet", num_classes=6), head="abn", objectives=[ar.MapSupervision(target=target)]
        )
        check_annotations(model, prepared(model, ["mask"]))
