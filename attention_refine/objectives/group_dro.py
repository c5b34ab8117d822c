r"""Group distributionally robust optimisation (Sagawa et al., *Distributionally Robust Neural Networks for Group Shifts*,
ICLR 2020): the class loss of the group that fares worst, in place of the mean.

With :math:`\ell_g` the mean class loss of group ``g`` in the batch, each step of the paper's algorithm 1 is

.. math::

    q_g \leftarrow q_g \exp(\eta_q \ell_g), \quad q \leftarrow q / \textstyle\sum_g q_g, \quad
    L = \textstyle\sum_g q_g \, \ell_g

It knows the groups of all training images, which most methods here do not: a control. Where this differs from the paper:
a batch holds several groups, all of which move their weight (the published code does so too); a group gets its weight
when it is first seen, until then the weights of the others add up to 1; the adjustment by :math:`C / \sqrt{n_g}` is left
out. The paper's large weight decay, without which a network that fits every image has no worst group, is
``TrainingConfig(weight_decay=)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..core.classification_loss import image_losses
from ._base import Objective, objectives
from ._distributed import processes

if TYPE_CHECKING:
    from ..output import RefinedOutput
    from ..refined import Refined


@dataclass(frozen=True)
class GroupDROConfig:
    """Options of :class:`GroupDRO`.

    Args:
        step_size: :math:`\\eta_q`, how fast the weight goes to the worst group; 0 weights all groups alike.
        groups: at most so many; those that never come have no weight.
        weight: of the loss, which stands in the place of the task's.
    """

    step_size: float = 0.01
    groups: int = 64
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.step_size < 0:
            raise ValueError(f"GroupDRO: step_size must be 0 or more, got {self.step_size}")
        if self.groups < 1:
            raise ValueError(f"GroupDRO: groups must be at least 1, got {self.groups}")
        if self.weight <= 0:
            raise ValueError(f"GroupDRO: weight must be above 0, for nothing else learns the task, got {self.weight}")


@objectives.register("group_dro")
class GroupDRO(Objective):
    """The weighted class losses of the groups, in place of the task's loss. Options: :class:`GroupDROConfig`.

    A batch has the column ``group``, ``(B,)`` int64, as from a dataset with such a column. With a head its own
    predictions' losses are in each image's. Loss: ``group_dro``. Measures: ``group_dro_worst``, the largest loss of a
    group in the batch, and ``group_dro_largest_weight``. The weights of the groups are in the checkpoints of a training
    and do nothing at inference. With several processes the groups' losses are those of all their images together.

    In evaluation the weights stand still, and images without groups have the mean of their losses.
    """

    config_class = GroupDROConfig
    reads = ("group", "index")
    compares_images = True

    log_weights: Tensor
    seen: Tensor

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.register_buffer("log_weights", torch.zeros(self.config.groups, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(self.config.groups, dtype=torch.bool))

    @property
    def task_weight(self) -> float:
        return 0.0

    @property
    def weights(self) -> Tensor:
        """``(groups,)`` float64: q, 0 for groups that were not seen yet."""
        return self.log_weights.masked_fill(~self.seen, -torch.inf).softmax(0).nan_to_num(0.0)

    def forward(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        labels, smoothing = batch["labels"], batch.get("smoothing", 0.0)
        losses = image_losses(output.logits, labels, smoothing)
        for logits in output.aux_logits.values():
            losses = losses + model.found_head().weight * image_losses(logits, labels, smoothing)
        groups = self._groups(batch)
        if groups is None:
            nothing = losses.new_zeros(())
            output.measures |= {"group_dro_worst": nothing, "group_dro_largest_weight": nothing}
            return {"group_dro": losses.mean()}
        across = self.training and processes() > 1  # evaluation deals images out unevenly
        count = torch.zeros_like(self.log_weights).index_add(0, groups, torch.ones_like(losses, dtype=torch.float64))
        total = torch.zeros_like(self.log_weights).index_add(0, groups, losses.detach().double())
        if across:
            dist.all_reduce(both := torch.stack([count, total]))
            count, total = both
        means = total / count.clamp_min(1)
        if self.training:
            self.seen |= count > 0
            self.log_weights += self.config.step_size * means
            self.log_weights -= self.log_weights[self.seen].max()  # a common factor, which normalising takes out
        q = self.weights
        output.measures["group_dro_worst"] = means.max().float()
        output.measures["group_dro_largest_weight"] = q.max().float()
        # The training loop weights a process by its images, these sums are over the images of all.
        share = count.sum() / len(losses)
        each = (q / count.clamp_min(1))[groups] * share
        return {"group_dro": (each.to(losses.dtype) * losses).sum()}

    def _groups(self, batch: dict[str, Any]) -> Tensor | None:
        """``(B,)``, or ``None`` in an evaluation without groups.

        Raises:
            ValueError: an image without a group, or more groups than there is room for.
        """
        groups = batch.get("group")
        if groups is None:
            if not self.training:
                return None
            raise ValueError(
                "GroupDRO needs the group of each image, and the batch has no column 'group': give the data one "
                "(group_column= names another column), or leave the objective out"
            )
        groups = groups.to(self.log_weights.device)
        outside = (groups < 0) | (groups >= self.config.groups)
        if outside.any():
            if not self.training:
                return None
            at = int(outside.nonzero()[0])
            row = int(batch["index"][at]) if batch.get("index") is not None else at
            found = int(groups[at])
            why = "has no group" if found < 0 else f"has group {found}, and there is room for {self.config.groups}"
            remedy = "fill the column 'group'" if found < 0 else f"set groups={found + 1} or more"
            raise ValueError(f"GroupDRO: image {row} {why}: {remedy}, or leave such images out")
        return groups
