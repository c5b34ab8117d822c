"""On real weights and photographs a map that explains must beat one that does not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from attention_refine import maps, metrics


@pytest.fixture(scope="module")
def pets(shared):
    """Four photographs, 192 px, normalised for ImageNet, and their masks."""
    from PIL import Image as image

    folder = shared / "data/pets3/test"
    if not (folder / "metadata.jsonl").is_file():
        pytest.skip(f"no photographs at {folder}")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()][10::80][:4]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    photos, masks = [], []
    for row in rows:
        photo = image.open(folder / row["file_name"]).convert("RGB").resize((192, 192))
        mask = np.asarray(image.open(folder / row["mask_file_name"]).convert("L").resize((192, 192), 0))
        pixels = torch.from_numpy(np.asarray(photo, dtype=np.float32) / 255)
        photos.append(((pixels - mean) / deviation).permute(2, 0, 1))
        masks.append(torch.from_numpy(np.select([mask == 255, mask == 128], [1, 255], 0).astype(np.uint8))[None])
    return torch.stack(photos), torch.stack(masks)


def test_grad_cam_beats_the_controls(shared, pets):
    import timm
    from safetensors.torch import load_file

    weights = shared / "weights/resnet18.safetensors"
    if not weights.is_file():
        pytest.skip(f"no weights at {weights}")
    net = timm.create_model("resnet18").eval()
    net.load_state_dict({name: value.float() for name, value in load_file(weights).items()}, strict=False)
    photos, masks = pets
    shown = {"grad_cam": maps.grad_cam(net, photos).detach().clamp_min(0)}
    shown["random"] = metrics.random_maps(torch.arange(4), shown["grad_cam"].shape[-2:])
    curves = {name: metrics.insertion_and_deletion(net, photos, m, n_steps=6) for name, m in shown.items()}
    assert curves["grad_cam"].insertion.auc.mean() > curves["random"].insertion.auc.mean()
    assert curves["grad_cam"].deletion.auc.mean() < curves["random"].deletion.auc.mean()
    for measure in (metrics.mask_correlation, metrics.energy_inside, metrics.map_auroc, metrics.iou):
        values = {name: measure(m, masks) for name, m in shown.items()}
        assert values["grad_cam"].mean() > values["random"].mean()
