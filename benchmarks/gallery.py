"""Every map of ``ar.maps`` on a few images, side by side: methods are columns, images rows.

    python benchmarks/gallery.py --images FOLDER --weights resnet50.safetensors --output gallery.png
    python benchmarks/gallery.py --shapes convolutional --output docs/images/maps_convolutional.png

The second trains a small network for a minute on the embedded dataset, whose badge in the background lies, and says how
often it is right with and without it. The target is the class the network predicts. Drawn is the positive part of each
map, from its lowest value (dark) to its 99.5th percentile (bright), blended with the image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from photographs import Spread, imagenet_names, network
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from attention_refine import maps, shapes
from attention_refine.backbones import logits_of
from attention_refine.overlay import denormalize, outline, overlay

ORDER = (
    "grad_cam", "grad_cam_plus_plus", "layer_cam", "eigen_cam", "score_cam", "gradient", "smooth_grad",
    "guided_backprop", "guided_grad_cam", "integrated_gradients", "occlusion", "rise",
    "class_attention", "attention_rollout", "gradient_rollout",
)  # fmt: skip
SHAPES = {"mean": [0.5] * 3, "std": [0.25] * 3}


def options(size: int, masks: int) -> dict[str, dict]:
    return {
        "integrated_gradients": {"reduce": "abs"},
        "score_cam": {"top_channels": 64},
        "smooth_grad": {"samples": 15},
        "occlusion": {"window": size // 6, "stride": size // 12},
        "rise": {"masks": masks},
    }


def made(net: nn.Module, x: Tensor, masks: int) -> dict[str, Tensor]:
    """Every map that applies to the network."""
    found = {}
    given = options(x.shape[-1], masks)
    for name in (*ORDER, *sorted(set(maps.list_maps()) - set(ORDER))):
        try:
            found[name] = maps.by_name(name)(net, x, **given.get(name, {})).mean(1).detach()
        except ValueError as error:
            print(f"{name}: left out, {error}")
    return found


def drawn(pixels: Tensor, values: Tensor, preprocessing: dict, side: int) -> Image.Image:
    positive = values.clamp_min(0) - values.min().clamp_min(0)  # RISE's lowest value is far above 0
    top = positive.flatten().quantile(0.995).clamp_min(1e-12)
    return overlay(denormalize(pixels, preprocessing), (positive / top)[None], 0.6, scale="unit").resize((side, side))


def picture(
    net: nn.Module, x: Tensor, masks: list, names: list[str], preprocessing: dict, side: int, rise_masks: int
) -> Image.Image:
    found = made(net, x, rise_masks)
    with torch.no_grad():
        best = logits_of(net(x)).softmax(1).max(1)
    head, left, gap = 34, 4, 3
    sheet = Image.new("RGB", (left + (side + gap) * (1 + len(found)), head + (side + 16) * len(x)), "white")
    ink, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for column, name in enumerate(("image", *found)):
        words = name.replace("plus_plus", "++").split("_")
        lines = [" ".join(words[: (len(words) + 1) // 2]), " ".join(words[(len(words) + 1) // 2 :])]
        ink.multiline_text((left + column * (side + gap), 3), "\n".join(lines).strip(), "black", font, spacing=2)
    for row in range(len(x)):
        top = head + row * (side + 16)
        plain = denormalize(x[row], preprocessing)
        sheet.paste((outline(plain, masks[row]) if masks[row] is not None else plain).resize((side, side)), (left, top))
        ink.text((left, top + side), f"{names[int(best.indices[row])]} {best.values[row]:.2f}", "black", font)
        for column, values in enumerate(found.values(), start=1):
            sheet.paste(drawn(x[row], values[row], preprocessing, side), (left + column * (side + gap), top))
    return sheet


def embedded(split: str, size: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    rows = list(shapes.rows(split, size=size))
    images = torch.stack([torch.from_numpy(row["image"]) for row in rows]).permute(0, 3, 1, 2)
    masks = torch.stack([torch.from_numpy(row["mask"]) > 0 for row in rows])
    return (images / 255 - 0.5) / 0.25, torch.tensor([row["label"] for row in rows]), masks


def small(kind: str) -> nn.Module:
    if kind == "transformer":
        from timm.models.vision_transformer import VisionTransformer

        return VisionTransformer(img_size=64, patch_size=8, embed_dim=96, depth=4, num_heads=4, num_classes=6)
    widths = (3, 32, 64, 128, 128)
    layers: list[nn.Module] = []
    for stride, (before, after) in zip((2, 2, 2, 1), zip(widths, widths[1:])):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 6))


def trained(kind: str, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    net, (images, labels, _) = small(kind), embedded("train")
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=epochs * 56, pct_start=0.2)
    for batch in (b for _ in range(epochs) for b in torch.randperm(len(images)).split(32)[:56]):
        loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()
    for split in ("test_intact", "test"):
        images, labels, _ = embedded(split)
        with torch.no_grad():
            right = torch.cat([net(part).argmax(1) for part in images.split(100)]) == labels
        print(f"{kind}, {split}: {right.float().mean():.3f} right")
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, help="folder with a test split")
    source.add_argument("--shapes", choices=("convolutional", "transformer"), help="train this on the embedded dataset")
    parser.add_argument("--weights", type=Path, help="a safetensors file of ImageNet weights")
    parser.add_argument("--network", help="timm's name of the network; the file's name unless given")
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rise-masks", type=int, default=300)
    parser.add_argument("--side", type=int, default=96, help="of a picture, in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.shapes:
        net, names, preprocessing = trained(given.shapes, given.epochs), list(shapes.CLASSES), SHAPES
        x, _, masks = (part[: given.rows] for part in embedded("test"))
    elif given.weights is None:
        parser.error("--images needs --weights")
    else:
        net, preprocessing = network(given.weights, given.network)
        names = imagenet_names()
        items = list(Spread(given.images, preprocessing, given.rows))
        x, masks = torch.stack([item["pixel_values"] for item in items]), [item.get("mask") for item in items]
    sheet = picture(net, x, list(masks), names, preprocessing, given.side, given.rise_masks)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256).save(given.output, optimize=True)
    print(f"{given.output}: {given.output.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
