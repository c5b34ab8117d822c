r"""Contrastive pretraining (Chen et al. 2020, *A Simple Framework for Contrastive Learning of Visual Representations*).

Two random views of an image should look alike to the network, and views of other images should not. With the
embeddings :math:`h` of the 2N views of a batch, what the classifier reads, and a small projection head ``g``,

.. math::

    z_i &= g(h_i), \quad s_{ij} = z_i^T z_j / (\|z_i\| \|z_j\|) \\
    \ell_{ij} &= -\log \frac{\exp(s_{ij} / \tau)}{\sum_{k \ne i} \exp(s_{ik} / \tau)}               & (1) \\
    L &= \frac{1}{2N} \sum_{k=1}^{N} (\ell_{2k-1, 2k} + \ell_{2k, 2k-1})

No labels: the companion that the paper on attention consistency pretrains with. The projection head exists in training
only; ``model.objectives.pop("contrastive")`` drops it.

With several processes the views of all are each other's negatives, and the gradient is that of one process with all
images. Accumulated batches do not see each other. Where this differs from the paper, and why:

* The views are made from the pixels of the batch, on its device, not from the file: a view is a crop of what the data's
  own augmentation left. ``augment="none"`` there leaves the whole image, and the crop the paper's.
* The projection head has two layers without batch norm, as in the code of attention consistency: with small batches and
  several processes, batch norm would tell views apart by the process that they are on.
* The head of attention maps, if there is one, does not take part: what is trained is the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.classifier import embedding_size, embeddings, last_layer
from ._base import Objective, objectives
from ._distributed import gathered, processes
from ._views import Views, ViewsConfig

if TYPE_CHECKING:
    from ..output import RefinedOutput
    from ..refined import Refined


@dataclass(frozen=True)
class ContrastivePretrainingConfig(ViewsConfig):
    """Options of :class:`ContrastivePretraining`.

    Args:
        temperature: :math:`\\tau`; 0.1 for ImageNet, 0.5 for CIFAR-10 in the paper.
        dimension: of :math:`z`.
        layers: linear layers of the projection head, with a ReLU between two; 1 is linear.
        gather: with several processes, take the views of all; ``False`` keeps to those of the process.
        smallest_crop: the smallest share of the image that a view shows; 1 does not crop.
        flip: probability of a horizontal flip.
        jitter: strength s of the colour jitter: brightness, contrast and saturation by up to 0.8 s, hue by up to 0.2 s,
            with probability 0.8; 0.5 for CIFAR-10 in the paper.
        grey: probability of a view without colour.
        blur: probability of a Gaussian blur, by a kernel of a tenth of the image; 0 for CIFAR-10 in the paper.
        weight: of the loss.
    """

    temperature: float = 0.1
    dimension: int = 128
    layers: int = 2
    gather: bool = True
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"ContrastivePretraining: temperature must be above 0, got {self.temperature}")
        for name in ("dimension", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"ContrastivePretraining: {name} must be 1 or more, got {getattr(self, name)}")
        if self.weight < 0:
            raise ValueError(f"ContrastivePretraining: weight must be 0 or more, got {self.weight}")
        self.check_views("ContrastivePretraining")


@objectives.register("contrastive")
class ContrastivePretraining(Objective):
    """The NT-Xent loss of eq. 1 over two views of each image. Options: :class:`ContrastivePretrainingConfig`.

    Loss: ``contrastive``. Measure: ``contrastive_accuracy``, the share of views whose nearest view is their pair.

    A batch with the column ``views`` (B, 2, C, H, W), normalised as ``pixel_values``, is taken at its word: the two
    views are those. Otherwise they are drawn from ``pixel_values`` by torch's CPU generator, so that a seed repeats
    them and a resumed run goes on as it would have; a clip (B, C, T, H, W) has one set of draws for all its frames.
    """

    config_class = ContrastivePretrainingConfig
    reads = ("views",)
    needs_labels = False
    least_images = 2  # one image has no other to be told from
    compares_images = True
    own_passes = True

    def attach(self, model: Refined) -> None:
        size = embedding_size(last_layer(model.backbone.net, model.num_labels))
        widths = [size] * self.config.layers + [self.config.dimension]
        layers: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:]):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.projection = nn.Sequential(*layers[:-1])

    def forward(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        pixels, views = batch["pixel_values"], batch.get("views")
        if views is None:
            make = Views(self.config, model.preprocessing)
            first, second = make(pixels), make(pixels)
        elif views.ndim == pixels.ndim + 1 and views.shape[1] == 2 and len(views) == len(pixels):
            first, second = views.unbind(1)
        else:
            wanted = (len(pixels), 2, *pixels.shape[1:])
            given = tuple(views.shape)
            raise ValueError(f"ContrastivePretraining: views must be {wanted}, two of each image, got {given}")
        layer = last_layer(model.backbone.net, model.num_labels)
        read = embeddings(model.backbone, layer, torch.cat([first, second]))
        one, two = self.projection(read).chunk(2)
        # Evaluation deals images out unevenly, so that processes would wait for each other.
        across = self.config.gather and self.training and processes() > 1
        loss, accuracy = nt_xent(one, two, self.config.temperature, across=across)
        output.measures["contrastive_accuracy"] = accuracy
        return {"contrastive": loss}


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.1, across: bool = False) -> tuple[Tensor, Tensor]:
    """Equation 1 of two views of N images.

    Args:
        first, second: ``(N, D)``, rows in the same order; normalised here.
        temperature: :math:`\\tau`.
        across: the other processes' views are negatives too. Every process must call at once; the loss is the mean over
            this one's views, so the mean over the processes, weighted by their images, is that of all.

    Returns:
        the loss, and the share of views whose nearest view is their pair (a constant); float32, log(2N - 1) where all
        views are equal.
    """
    with torch.autocast(first.device.type, enabled=False):
        full = [F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1) for z in (first, second)]
        (keys, start), (others, _) = (gathered(z) if across else (z, 0) for z in full)
        logits = torch.cat(full) @ torch.cat([keys, others]).T / temperature
        rows = torch.arange(start, start + len(first), device=first.device)
        itself, pair = torch.cat([rows, rows + len(keys)]), torch.cat([rows + len(keys), rows])
        logits = logits.scatter(1, itself[:, None], -torch.inf)
        return F.cross_entropy(logits, pair), (logits.detach().argmax(1) == pair).to(logits.dtype).mean()
