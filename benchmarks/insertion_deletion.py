"""Insertion and deletion against the forwards they need, by pixels and, on a ViT, by tokens.

    python benchmarks/insertion_deletion.py

``--images`` images, ``--points`` points a curve. The unit is a plain forward of 8 images. With shared ends a curve pair
needs 2 (points - 2) + 2 forwards an image, the blurred fill included, and one forward more for the fill that all share.
"""

from __future__ import annotations

import argparse

import timm
import torch
from grad_cam import NETWORKS, SITES, grid
from peers import peer
from timing import compare

from attention_refine import metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="leave the other library out")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    eight, x = torch.randn(8, 3, 224, 224), torch.randn(given.images, 3, 224, 224)
    scores = torch.rand(given.images, 1, 14, 14)
    steps = given.points - 1
    needed = (given.images * (2 * (given.points - 2) + 2) + 1) / 8
    for name in given.networks:
        site = SITES.get(name, "layer4")
        net = timm.create_model(name).eval()

        def plain(net=net) -> None:
            with torch.no_grad():
                net(eight)

        jobs = {
            "plain forward of 8": plain,
            "ours": lambda net=net: metrics.insertion_and_deletion(net, x, scores, n_steps=steps),
            "ours, chunks of 8": lambda net=net: metrics.insertion_and_deletion(
                net, x, scores, n_steps=steps, batch_size=8
            ),
        }
        if "vit" in name:
            jobs["ours, tokens dropped"] = lambda net=net: metrics.token_insertion_and_deletion(
                net, x, scores, n_steps=steps
            )
        if not given.alone and (torchcam := peer("torchcam.metrics")):
            from torchcam.methods import GradCAM

            reshape = grid if "vit" in name else None

            def theirs(net=net, site=site, reshape=reshape) -> None:
                with GradCAM(net, site, reshape_transform=reshape) as extractor:
                    torchcam.DeletionInsertionMetric(extractor, steps=steps).update(x)

            jobs["torchcam, its Grad-CAM included"] = theirs
        print(
            f"\n{name}, {given.images} images x {given.points} points, {given.threads} threads; time / a plain forward of 8",
            flush=True,
        )
        plain()  # the jobs are dozens of forwards: that warms up enough
        found = compare(jobs, "plain forward of 8", given.rounds, warm_up=False)
        print(
            f"forwards needed {needed:.1f}; ours {found['ours'] / needed:.2f} x that, in chunks of 8 {found['ours, chunks of 8'] / needed:.2f} x"
        )


if __name__ == "__main__":
    main()
