"""transformers' video classifiers by id: clips as everywhere, the sampling of their papers, a checkpoint bit-equal."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

import attention_refine as ar
from attention_refine import clips, data

SIZES = {"image_size": 32, "patch_size": 8, "num_frames": 4, "hidden_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 4, "intermediate_size": 64, "num_labels": 3}  # fmt: skip
NETWORKS = {
    "videomae": (hf.VideoMAEForVideoClassification, lambda: hf.VideoMAEConfig(tubelet_size=2, **SIZES), 4, (2, 4, 4)),
    "timesformer": (hf.TimesformerForVideoClassification, lambda: hf.TimesformerConfig(**SIZES), 32, (4, 4, 4)),
    "vivit": (hf.VivitForVideoClassification, lambda: hf.VivitConfig(tubelet_size=[2, 8, 8], **SIZES), 2, (2, 4, 4)),
    "vjepa2": (
        hf.VJEPA2ForVideoClassification,
        lambda: hf.VJEPA2Config(
            crop_size=32,
            frames_per_clip=4,
            tubelet_size=2,
            mlp_ratio=2.0,
            num_pooler_layers=1,
            **{
                name: size
                for name, size in SIZES.items()
                if name in ("patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_labels")
            },
        ),
        None,
        (2, 4, 4),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_video_classifier_is_wrapped_trained_a_step_and_saved(tmp_path, name):
    network, config, stride, grid = NETWORKS[name]
    network(config()).save_pretrained(tmp_path / "net")
    processor = hf.VideoMAEImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.2] * 3
    )
    processor.save_pretrained(tmp_path / "net")
    options = {"pool": "avg"} if name == "timesformer" else {}  # its class token attends to one frame at a time
    model = ar.wrap(tmp_path / "net", head="abn", labels=list(clips.CLASSES), **options)
    assert model.preprocessing["input_size"] == [3, 4, 32, 32] and model.preprocessing.get("stride") == stride
    assert model.preprocessing["mean"] == [0.4] * 3
    again = ar.wrap(tmp_path / "net", labels=list(clips.CLASSES), preprocessing={"fps": 4})
    assert again.preprocessing["fps"] == 4 and "stride" not in again.preprocessing  # a clip has either

    items = data.prepare(clips.make("test", 2, size=32), {**model.preprocessing, "stride": 1})
    batch = data.collate([items[0], items[1]])
    output = model(batch["pixel_values"], labels=batch["labels"])
    output.loss.backward()
    assert output.maps.shape == (2, 1, *grid) and output.loss.isfinite()
    model.eval().save_pretrained(tmp_path / "saved")
    loaded = ar.load(tmp_path / "saved")
    assert loaded.preprocessing.get("stride") == stride
    assert torch.equal(loaded(batch["pixel_values"]).logits, model(batch["pixel_values"]).logits)
    assert model.explain(batch["pixel_values"], method="grad_cam").shape == (2, 1, 4, 32, 32)
