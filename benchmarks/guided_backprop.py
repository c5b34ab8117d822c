"""Guided backpropagation, alone and with Grad-CAM from the same pass, against a plain forward and beside other libraries.

    python benchmarks/guided_backprop.py

captum's guided backpropagation guides ReLU modules only: on the ViT, whose activations are GELU, it is the plain gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import memory
import timm
import torch
from grad_cam import NETWORKS, SITES
from peers import peer
from timing import arguments, compare

from attention_refine import maps


def jobs(network: str, batch: int, size: int, device: str) -> tuple[Callable, dict[str, Callable]]:
    net = timm.create_model(network).to(device).eval()
    x = torch.randn(batch, 3, size, size).to(device)
    target = torch.full((batch,), 3)
    found: dict[str, Callable] = {
        "ours": lambda: maps.guided_backprop(net, x, target),
        "ours, with Grad-CAM": lambda: maps.grad_cam_and_guided_backprop(net, x, target, site=SITES[network]),
    }
    if captum := peer("captum.attr"):
        own = copy.deepcopy(net)
        guided = captum.GuidedBackprop(own)
        found["captum"] = lambda: guided.attribute(x.clone(), 3)
        both = captum.GuidedGradCam(own, own.get_submodule(SITES[network]))
        if network == "resnet50":  # on tokens it has no grid to resize
            found["captum, guided Grad-CAM"] = lambda: both.attribute(x.clone(), 3)
    if network == "resnet50" and (grad_cam := peer("pytorch_grad_cam")):
        replaced = grad_cam.GuidedBackpropReLUModel(copy.deepcopy(net))
        found["grad-cam, image by image"] = lambda: [replaced(image[None].clone(), 3) for image in x]

    def plain() -> None:
        with torch.no_grad():
            net(x)

    return plain, found


def main() -> None:
    given = arguments(__doc__, networks=NETWORKS)
    for network in given.networks:
        plain, found = jobs(network, given.batch, given.size, given.device)
        print(
            f"\n{network}, batch {given.batch}, {given.size} px, {given.on}; time / a plain forward",
            flush=True,
        )
        compare({"plain forward": plain, **found}, "plain forward", given.rounds)
        if network == "resnet50":
            memory.report(__file__, network, [n for n in found if "image by image" not in n], given)


if __name__ == "__main__":
    main()
