"""Grad-CAM of one target, of five and of all classes, against a plain forward and beside other libraries.

    python benchmarks/grad_cam.py

The site is the same for all: the last stage of the ResNet, the input of the last block of the ViT, which
``site="auto"`` finds by itself, once a network. A further class costs
grad-cam its whole job again, so five of them are not measured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import memory
import timm
import torch
from peers import peer
from timing import arguments, compare

from attention_refine import maps

NETWORKS = ("resnet50", "vit_small_patch16_224")
SITES = {"resnet50": "layer4", "vit_small_patch16_224": "blocks.10"}
SEARCH = "ours, first call with site='auto'"  # measured for memory: later calls know the site
CLASSES = (3, 50, 300, 700, 900)


def grid(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14))


def jobs(network: str, batch: int, size: int, device: str) -> tuple[Callable, dict[str, Callable]]:
    net = timm.create_model(network).to(device).eval()
    x = torch.randn(batch, 3, size, size).to(device)
    site, tokens = SITES[network], network.startswith("vit")
    first, five = torch.full((batch,), 3), torch.tensor(CLASSES).expand(batch, -1)
    found: dict[str, Callable] = {
        "ours": lambda: maps.grad_cam(net, x, first, site=site),
        "ours, five targets": lambda: maps.grad_cam(net, x, five, site=site),
    }
    if not tokens:  # elsewhere each class costs the last block's backward pass
        everything = torch.arange(1000).expand(batch, -1)
        found["ours, all 1000 classes"] = lambda: maps.grad_cam(net, x, everything, site=site)

    if captum := peer("captum.attr"):
        layer = captum.LayerGradCam(net, net.get_submodule(site))
        found["captum"] = lambda: layer.attribute(x, 3)
        found["captum, five targets"] = lambda: [layer.attribute(x, c) for c in CLASSES]
    if torchcam := peer("torchcam.methods"):

        def extract(classes) -> None:
            with torchcam.GradCAM(net, site, reshape_transform=grid if tokens else None) as extractor:
                scores = net(x)
                for number, c in enumerate(classes, start=1):
                    extractor([c] * batch, scores, retain_graph=number < len(classes))

        found["torchcam"] = lambda: extract(CLASSES[:1])
        found["torchcam, five targets"] = lambda: extract(CLASSES)
    if grad_cam := peer("pytorch_grad_cam"):
        own = copy.deepcopy(net)  # it leaves .grad filled

        def run() -> None:
            outputs = [grad_cam.utils.model_targets.ClassifierOutputTarget(3)] * batch
            with grad_cam.GradCAM(own, [own.get_submodule(site)], reshape_transform=grid if tokens else None) as cam:
                cam(x, outputs)

        found["grad-cam"] = run

    def plain() -> None:
        with torch.no_grad():
            net(x)

    found[SEARCH] = lambda: maps.grad_cam(net, x, first)
    return plain, found


def main() -> None:
    given = arguments(__doc__, networks=NETWORKS)
    for network in given.networks:
        plain, found = jobs(network, given.batch, given.size, given.device)
        print(
            f"\n{network}, batch {given.batch}, {given.size} px, {given.on}; time / a plain forward",
            flush=True,
        )
        timed = {name: job for name, job in found.items() if name != SEARCH}
        compare({"plain forward": plain, **timed}, "plain forward", given.rounds)
        if network == "resnet50":
            memory.report(__file__, network, [n for n in found if "five" not in n], given)


if __name__ == "__main__":
    main()
