"""What a run says: the data before, a line an epoch, the verdict after; and an objective that would do nothing, at the start."""

from __future__ import annotations

import datasets
import pytest
import timm
from PIL import Image
from torch.utils.data import default_collate
from training_runs import TinyImages, TinyModel

import attention_refine as ar
from attention_refine import data, shapes
from attention_refine.training import TrainingConfig, TrainingError, finetune
from attention_refine.training.choosing import Choice
from attention_refine.training.console import data_line, epoch_line
from attention_refine.training.image_kinds import check_annotations


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
    assert epoch_line({"epoch": 3, "train/loss": 0.5}, None, config, None, 0.09) == "epoch 3: loss 0.5"
    assert epoch_line({"epoch": 3, "train/loss": 0.5}, None, config, None, 0.312) == (
        "epoch 3: loss 0.5, 31% of the time waiting for images"
    )
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


def test_masks_that_are_void_all_over_are_said_after_one_epoch(tmp_path):
    images = shapes.make("train", 4, size=64)
    void = [Image.new("L", (64, 64), 128) for _ in images]
    kinds = datasets.Features(image=datasets.Image(), label=images.features["label"], mask=datasets.Image())
    columns = {"image": images["image"], "label": images["label"], "mask": void}
    images = datasets.Dataset.from_dict(columns, features=kinds)
    model = ar.wrap(
        timm.create_model("test_resnet", num_classes=6),
        head="abn",
        objectives=["map_supervision"],
        preprocessing={"input_size": [3, 64, 64]},
    )
    config = TrainingConfig(output_dir=str(tmp_path), progress=False, epochs=1, batch_size=2)
    with pytest.warns(
        UserWarning, match=r"saw nothing to learn from in a whole epoch.* mask, which is void \(255\) all over"
    ):
        result = finetune(model, data.Prepared(images, model.preprocessing), config)
    assert result.history[-1]["train/map_supervision_images"] == 0


@pytest.mark.parametrize("name, images, least", [("contrastive", 1, 2), ("triplet", 2, 3)])
def test_an_objective_that_compares_the_images_of_a_batch_of_too_few(tmp_path, name, images, least):
    model = ar.wrap(timm.create_model("test_resnet", num_classes=6), objectives=[name])
    said = f"{name} would do nothing: it compares the images of a batch with each other, and batch_size is {images}: give at"
    with pytest.raises(TrainingError, match=f"{said} least {least}"):
        config = TrainingConfig(output_dir=str(tmp_path), progress=False, batch_size=images)
        finetune(model, prepared(model), config)


def test_one_that_reads_what_is_there_is_not():
    for target in ("mask", "auto"):
        model = ar.wrap(
            timm.create_model("test_resnet", num_classes=6), head="abn", objectives=[ar.MapSupervision(target=target)]
        )
        check_annotations(model, prepared(model, ["mask"]))


# --- what would do nothing


def made(objectives=(), head=None, **options):
    net = timm.create_model("test_resnet", num_classes=6)
    head = ar.AttentionBranch(**options) if head else None
    return ar.wrap(net, head=head, objectives=list(objectives), labels=list(shapes.CLASSES),
                   preprocessing={"input_size": [3, 64, 64]})  # fmt: skip


def run(folder, model, dataset, unlabeled=None, **options):
    config = TrainingConfig(output_dir=str(folder), **{"batch_size": 4, "max_steps": 2, "progress": False, **options})
    return finetune(model, dataset, config, unlabeled=unlabeled)


def test_an_objective_that_begins_after_the_end_is_refused(tmp_path):
    rows = shapes.make("train", 8, size=64)
    mining = ar.AttentionMining(start_step=4)
    with pytest.raises(
        TrainingError, match=r"mining would do nothing: it begins after 4 training passes .* run has 2$"
    ):
        run(tmp_path / "a", made([mining], head=True), rows)
    run(tmp_path / "b", made([mining], head=True), rows, batch_size=2, gradient_accumulation_steps=2, max_steps=5)
    begun = made([ar.AttentionMining(start_step=4)], head=True)
    begun.objectives["mining"].begun_steps.fill_(3)
    run(tmp_path / "c", begun, rows)


def test_a_map_that_is_not_in_by_the_end_is_said(tmp_path, capsys):
    rows = shapes.make("train", 8, size=64)
    run(tmp_path / "a", made(head=True, fade_in_steps=8), rows, progress=True)
    said = "map: it comes in over 8 training passes (fade_in_steps) and acts by 25% in the end"
    assert said in capsys.readouterr().out.splitlines()
    run(tmp_path / "b", made(head=True, fade_in_steps=2), rows, progress=True)
    assert "fade_in_steps" not in capsys.readouterr().out


def test_a_monitor_that_nothing_measures_and_a_single_class_are_said(tmp_path):
    rows = shapes.make("train", 12, size=64)
    with pytest.warns(
        UserWarning, match="monitor='macro_f1' chooses the best epoch, and nothing measures it: give eval_"
    ):
        run(tmp_path / "a", made(), rows, monitor="macro_f1")
    with pytest.warns(
        UserWarning, match="all 2 images are of one class, 'striped disc', of 6: there is nothing to tell"
    ):
        run(tmp_path / "b", made(), rows.select([0, 6]), batch_size=2)


def test_unlabelled_images_without_what_the_objective_reads_are_refused(tmp_path):
    rows = shapes.make("train", 8, size=64)
    bare = rows.remove_columns(["mask", "bbox", "cue_bbox"])
    said = r"an unlabelled dataset needs an objective .* are map_supervision \(map_supervision reads .*mask.*, which the im"
    with pytest.raises(TrainingError, match=said):
        run(tmp_path / "a", made(["map_supervision"], head=True), rows, bare)
    run(tmp_path / "b", made(["map_supervision", "consistency"], head=True), rows, bare)


def test_a_batch_in_which_no_image_has_what_the_objective_reads_teaches_nothing(tmp_path):
    """Three of four label-free batches have no mask: their loss depends on no weight."""
    rows = shapes.make("train", 8, size=64).remove_columns(["bbox", "cue_bbox"])
    few = rows.map(lambda row, i: {"mask": row["mask"] if i == 0 else None}, with_indices=True)
    result = run(tmp_path, made(["map_supervision"], head=True), few, strategy="finetune", batch_size=2, max_steps=4)
    assert result.steps == 4 and result.history[-1]["train/map_supervision_images"] == pytest.approx(1 / 8)
