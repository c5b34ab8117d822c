"""Which map finds the object in a fine-tuned token transformer: Grad-CAM at several blocks, gradient rollout, LeGrad, the centre.

    python benchmarks/transformer_sites.py --data pets3 --weights deit_tiny_patch16_224.safetensors --seed 0

A plain network is fine-tuned for ``--steps`` steps of 32 images and judged once, on ``--images`` test images.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

import attention_refine as ar
from attention_refine import maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--weights", type=Path, required=True, help="file named as timm names the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--blocks", type=int, nargs="+", default=[5, 7, 8, 9, 10])
    given = parser.parse_args()
    train = ar.data.load_dataset(str(given.data), "train")
    torch.manual_seed(given.seed)
    model = ar.wrap(given.weights.stem, labels=ar.data.class_names(train), pretrained=given.weights)
    with tempfile.TemporaryDirectory() as folder:
        training = ar.TrainingConfig(
            output_dir=folder, max_steps=given.steps, batch_size=32, learning_rate=1e-4, weight_decay=0.05,
            warmup_ratio=0.1, seed=given.seed, mixed_precision="auto",
        )  # fmt: skip
        ar.finetune(model, ar.data.prepare(train, model.preprocessing, train=True), training)
    model.eval()
    test = ar.data.load_dataset(str(given.data), "test", class_names=model.labels)
    count = min(given.images, len(test))
    test = test.select([i * len(test) // count for i in range(count)])
    sources = {f"grad_cam, blocks.{number}": partial(_at, f"blocks.{number}") for number in given.blocks}
    sources |= {"grad_cam": None, "gradient_rollout": None, "legrad": None, "centre": None}
    measures = ["accuracy", "mask_correlation", "pointing_game"]
    print(ar.evaluate(model, test, measures=measures, maps=sources, perturbation_images=0))


def _at(site: str, model: ar.RefinedModel, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return maps.grad_cam(model, pixel_values, target=target, site=site)


if __name__ == "__main__":
    main()
