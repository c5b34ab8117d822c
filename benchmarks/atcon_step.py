"""A consistency step against a supervised one at the same batch: fast and exact, beside the one-image-at-a-time form.

python benchmarks/atcon_step.py
"""

from __future__ import annotations

import memory
import timm
import torch
from abn_step import step
from timing import arguments, compare, multiply_adds
from torch import Tensor, nn

import attention_refine as ar

GOALS = {"fast": 2.3, "exact": 3.6}


def made(network: str, **options) -> ar.RefinedModel:
    return ar.wrap(timm.create_model(network, num_classes=20), **options).train()


def label_free(model: ar.RefinedModel, x: Tensor):
    """One step of consistency fine-tuning."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)

    def run() -> None:
        optimizer.zero_grad()
        model(x).loss.backward()
        optimizer.step()

    return run


def one_by_one(net: nn.Module, layer: nn.Module, x: Tensor):
    """The structure of published code: a loop over images, three forward passes each, every gradient taken down to the
    pixels with its graph, guided ReLUs swapped in and out."""
    optimizer = torch.optim.SGD(net.parameters(), 1e-9)
    relus = [m for m in net.modules() if isinstance(m, nn.ReLU)]
    for relu in relus:
        relu.inplace = False
    features: list[Tensor] = []
    layer.register_forward_hook(lambda module, args, output: features.append(output))
    swapped = [False]

    def guided(module, args, output):
        output.register_hook(lambda g: g.clamp(min=0) if swapped[0] else g)

    def grad_cam(image: Tensor, target: int | None) -> tuple[Tensor, int]:
        features.clear()
        image = image if image.requires_grad else image.clone().requires_grad_()
        logits = net(image)
        target = int(logits.argmax()) if target is None else target
        feature = features[0]
        _, gradient = torch.autograd.grad(logits[0, target], [image, feature], create_graph=True)
        return (gradient.mean((2, 3), keepdim=True) * feature).sum(1), target

    def guided_backprop(image: Tensor, target: int) -> Tensor:
        handles = [relu.register_forward_hook(guided) for relu in relus]
        image = image.clone().requires_grad_()
        swapped[0] = True
        (gradient,) = torch.autograd.grad(net(image)[0, target], image, create_graph=True)
        swapped[0] = False
        for handle in handles:
            handle.remove()
        return gradient.abs().sum(1, keepdim=True)

    def run() -> None:
        net.eval()
        optimizer.zero_grad()
        total = 0.0
        for image in x:
            a, target = grad_cam(image[None], None)
            guide = guided_backprop(image[None], target)
            mask = torch.sigmoid((guide - guide.mean()) / guide.std())
            b, _ = grad_cam(mask * image[None], target)
            a, b = (m.flatten() - m.mean() for m in (a, b))
            total = total - (a * b).sum() / (a.norm() * b.norm())
        (total / len(x)).backward()
        optimizer.step()

    return run


def jobs(network: str, batch: int, size: int, device: str):
    """A plain forward, and each step by name."""
    x = torch.randn(batch, 3, size, size).to(device)
    y = torch.randint(0, 20, (batch,)).to(device)
    plain = made(network).to(device)
    bare = timm.create_model(network, num_classes=20).to(device)
    layer = dict(bare.named_modules())[ar.backbones.reading_site(bare, x[:1]).name]
    found = {
        "supervised": step(plain, x, y),
        "fast": label_free(made(network, objectives=[ar.AttentionConsistency(detach_mask=True)]).to(device), x),
        "exact": label_free(made(network, objectives=[ar.AttentionConsistency(detach_mask=False)]).to(device), x),
        "one by one": one_by_one(bare, layer, x),
    }

    def forward() -> None:
        with torch.no_grad():
            plain(x, compute_losses=False)

    return forward, found


def main() -> None:
    given = arguments(__doc__, rounds=5, networks=["resnet50"])
    for network in given.networks:
        _, steps = jobs(network, given.batch, given.size, given.device)
        print(f"\n{network}, batch {given.batch}, {given.size} px, {given.on}; time / a supervised step")
        found = compare(steps, "supervised", given.rounds)
        work = {name: multiply_adds(run) for name, run in steps.items()}
        for name, goal in GOALS.items():
            allowed = work[name] / work["supervised"]
            print(
                f"{name}: {found[name]:.2f} x a supervised step (goal {goal}) for {allowed:.2f} x its multiply-adds, "
            )
            print(f"      {found[name] / found['one by one']:.2f} x the one-by-one form")
        memory.report(__file__, network, list(steps), given)


if __name__ == "__main__":
    main()
