"""From a folder of videos to a model that was trained, judged, saved, loaded and asked about a file."""

from __future__ import annotations

import pytest
import torch

import attention_refine as ar
from attention_refine import clips, data

pytest.importorskip("av")
PREPROCESSING = {"input_size": [3, 8, 32, 32], "fps": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clips.write(tmp_path_factory.mktemp("clips"), ("train", "test"), n=10, size=32, frames=8)


def model(**options):
    return ar.wrap(
        "r3d_18@4", labels=list(clips.CLASSES), pretrained=False, preprocessing=PREPROCESSING, **options
    )  # fmt: skip


@pytest.mark.parametrize(
    ("head", "objectives"),
    [
        ("abn", ["mining"]),
        ("brnpa", []),
        (None, ["consistency"]),
        (None, ["map_supervision"]),
        (None, ["contrastive"]),
        ("abn", [ar.DARC(min_cells=1.0, width=16)]),
        (None, ["transplant"]),
    ],
    ids=["abn, mining", "brnpa", "consistency", "map supervision", "contrastive", "darc", "transplant"],
)
def test_a_folder_of_videos_is_trained_on(folder, tmp_path, head, objectives):
    made = model(head=head, objectives=objectives)
    before = made.backbone.net.stem[0].weight.clone()
    config = ar.TrainingConfig(output_dir=str(tmp_path), epochs=1, batch_size=5, progress=False)
    result = ar.finetune(made, folder, config, eval_dataset=data.load_dataset(folder, "test"))
    found = result.history[-1]
    assert all(torch.isfinite(torch.tensor(found[f"train/{name}"])) for name in ["loss", *made.objectives])
    assert not torch.equal(before, made.backbone.net.stem[0].weight)
    assert (head is not None) == ("eval/mask_correlation" in found)


def test_it_is_judged_over_the_volume_and_by_several_clips(folder):
    made = model(head="abn").eval()
    measures = ["accuracy", "mask_correlation", "energy_on_cue", "pointing_game", "sparsity", "insertion", "deletion"]
    options = {"measures": measures, "perturbation_images": 2, "perturbation_steps": 3, "progress": False}
    whole = ar.evaluate(made, folder, maps=["model", "grad_cam", "random", "centre"], **options)
    assert set(whole.summary["maps"]) == {"model", "grad_cam", "random", "centre"}
    assert whole.samples[0]["file"].endswith("00000.mp4")
    one = ar.evaluate(made, folder, **options, batch_size=1)
    for a, b in zip(whole.samples, one.samples):
        for name in ("model/mask_correlation", "model/energy_on_cue", "model/sparsity"):
            assert a[name] == pytest.approx(b[name], abs=1e-5)
    several = data.prepare(data.load_dataset(folder, "test"), {**made.preprocessing, "fps": 16}, clips=3)
    with torch.no_grad():
        item = several[0]
        every = torch.cat([item["pixel_values"][None], item["more_clips"]])
        wanted = made(every).logits.mean(0).softmax(0).max()
    judged = ar.evaluate(made, several, measures=["accuracy"], maps=[], progress=False)
    assert judged.samples[0]["score"] == pytest.approx(wanted.item(), abs=1e-5)


def test_a_file_is_preprocessed_and_explained(folder):
    made = model(head="abn").eval()
    path = folder / "test" / "00003.mp4"
    pixels = made.preprocess(path)
    assert pixels.shape == (1, 3, 8, 32, 32) and torch.equal(pixels, made.preprocess(path.read_bytes()))
    item = data.prepare(data.load_dataset(folder, "test"), made.preprocessing)[3]
    assert torch.equal(pixels[0], item["pixel_values"])
    for method in ("model", "grad_cam"):
        maps = made.explain(pixels, method=method)
        assert maps.shape == (1, 1, 8, 32, 32) and maps.isfinite().all()
