"""Seconds that wrapping and the first forward add to timm's own creation and first forward of ResNet-50.

python benchmarks/wrap_cost.py
"""

from __future__ import annotations

import statistics
import time

import timm
import torch
from timing import arguments

import attention_refine as ar


def main() -> None:
    given = arguments(__doc__, rounds=5)
    x = torch.randn(1, 3, given.size, given.size)
    plain, wrapped = [], []
    for _ in range(given.rounds):
        for spent, wrap in ((plain, False), (wrapped, True)):
            start = time.perf_counter()
            net = timm.create_model("resnet50").eval()
            model = ar.wrap(net, head="abn").eval() if wrap else net
            with torch.no_grad():
                model(x)
            spent.append(time.perf_counter() - start)
    extra = [b - a for a, b in zip(plain, wrapped)]
    print(
        f"timm alone {statistics.median(plain):.2f} s; wrapping adds {statistics.median(extra):.2f} s "
        f"({min(extra):.2f} to {max(extra):.2f}), {statistics.median(wrapped) / statistics.median(plain):.2f} x"
    )


if __name__ == "__main__":
    main()
