"""Eigen-CAM's projection of eight features 2048 x 7 x 7, and of 384 x 14 x 14, beside grad-cam's.

python benchmarks/eigen_cam.py
"""

from __future__ import annotations

import time
from functools import partial

import torch
from peers import peer
from timing import arguments, compare

from attention_refine.maps.eigen_cam import principal_map


def main() -> None:
    given = arguments(__doc__, rounds=5)
    grad_cam = peer("pytorch_grad_cam")
    for channels, side in ((2048, 7), (384, 14)):
        feature = torch.randn(given.batch, channels, side, side).relu()
        found = {"ours": partial(principal_map, feature.flatten(2), centre=True)}
        if grad_cam:
            from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

            values = feature.numpy()
            found["grad-cam"] = partial(get_2d_projection, values)
            ours, theirs = found["ours"]().flatten(1), torch.from_numpy(found["grad-cam"]()).flatten(1)
            alike = torch.cosine_similarity(ours, theirs).abs().min()
            print(f"the same up to the sign: |cosine| {alike:.6f} or more")
        start = time.process_time()
        for _ in range(10):
            found["ours"]()
        share = (time.process_time() - start) / 10
        print(
            f"{given.batch} features {channels} x {side} x {side}, {given.threads} threads; time / ours ({share:.4f} s of CPU)"
        )
        compare(found, "ours", given.rounds)


if __name__ == "__main__":
    main()
