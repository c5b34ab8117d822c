"""RISE: the mean of random masks, each counted by the score of the image seen through it (Petsiuk et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._conditions import full_precision, map_conditions
from ._pixels import image_size
from ._progress import counted
from ._registry import register_map
from ._site import refuse_site
from ._target import Target, repeated
from .gradient import clean_target, copies_at_once
from .score_cam import scores_in_chunks


@register_map(kind="sampled")
def rise(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    create_graph: bool = False,
    masks: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    probability: str = "softmax",
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """``sum_i score(x . m_i) m_i / (N p)`` over N random masks (eq. 6); the network is only called.

    A mask is a grid of kept and hidden cells, enlarged bilinearly and shifted at random by less than one cell
    (section 3.2). Hidden pixels show the data set's mean colour. Every image sees the same masks, and they have a
    generator of their own, so a map depends neither on the batch nor on the global random state. Clips are masked alike
    in every frame.

    Args:
        net: any classifier whose output is logits or has ``.logits``.
        pixel_values: images ``(B, 3, H, W)``, or clips ``(B, 3, T, H, W)`` or ``(B, T, 3, H, W)``.
        target: classes to explain, see :mod:`attention_refine.maps._target`; None is the class predicted for the image.
        site: only ``"auto"``: the map is of the pixels.
        create_graph: keep the graph of every forward pass.
        masks: how many; the paper uses 4000 (VGG) and 8000 (ResNet).
        cells: of the grid, on each side.
        keep: probability that a cell is kept.
        probability: ``"softmax"``, ``"sigmoid"`` (multi-label) or ``"none"``: what is made of the logits before the
            target reads its score.
        chunk_size: images forwarded at once, which bounds the memory; None is one copy of the batch.
        seed: of the masks.
        progress: show a progress bar.

    Returns:
        ``(B, T, H, W)`` at the pixels' resolution; clips ``(B, T, 1, H, W)``, one map for all frames.

    Raises:
        ValueError: the target or an option does not fit.
    """
    if masks < 1 or cells < 1 or not 0 < keep <= 1:
        raise ValueError(f"rise needs masks >= 1, cells >= 1 and 0 < keep <= 1; got {masks}, {cells} and {keep}")
    refuse_site(site, "rise")
    with map_conditions(net, pixel_values, create_graph) as (net, pixels), torch.set_grad_enabled(create_graph):
        wanted = clean_target(net, pixels, target, chunk_size)
        size = image_size(pixels)[-2:]
        at_once = copies_at_once(pixels, chunk_size)
        total = torch.zeros(())
        groups = random_masks(masks, at_once, size, cells, keep, seed, pixels.device)
        for group in counted(groups, -(-masks // at_once), progress, "rise"):
            group = group.to(pixels.dtype)  # (n, H, W)
            shape = [len(group), 1, *[1] * (pixels.ndim - 2)]
            shape[-2:] = size
            copies = pixels.unsqueeze(0) * group.reshape(shape).unsqueeze(1)  # (n, B, ...)
            seen = scores_in_chunks(net, copies.flatten(0, 1), repeated(wanted, len(group)), probability, chunk_size)
            total = total + torch.einsum("nbt,nhw->bthw", seen.unflatten(0, (len(group), len(pixels))), group)
        maps = total / (masks * keep)
        return full_precision(maps.unsqueeze(2) if pixels.ndim == 5 else maps)


def random_masks(
    masks: int, at_once: int, size: tuple[int, ...], cells: int, keep: float, seed: int, device: torch.device
) -> Iterator[Tensor]:
    """The masks ``(n, H, W)`` in [0, 1], ``at_once`` at a time; what they are does not depend on the grouping."""
    generator = torch.Generator().manual_seed(seed)
    cell = [-(-side // cells) for side in size]
    kept = (torch.rand(masks, 1, cells, cells, generator=generator) < keep).float()
    shifts = [torch.randint(side, (masks,), generator=generator).tolist() for side in cell]
    enlarged = [(cells + 1) * side for side in cell]
    for group in torch.arange(masks).split(at_once):
        large = F.interpolate(kept[group].to(device), size=enlarged, mode="bilinear", align_corners=False)[:, 0]
        corners = [(shifts[0][i], shifts[1][i]) for i in group.tolist()]
        yield torch.stack([m[top : top + size[0], left : left + size[1]] for m, (top, left) in zip(large, corners)])
