"""How far a run has moved the predictions on the validation images: a reason to stop that needs no labels."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from attention_refine.core.files import atomic_file
from attention_refine.training.checkpoints import weights_damage
from attention_refine.training.config import TrainingError


class StartingPredictions:
    """The starting model's logits on this process's share of the validation images, in a file, so that they survive.

    Args:
        folder: where they are kept, a file a process; written by :meth:`keep`, read at first use in a resumed run.
        began: of how many processes the run began with; as many as there are now where None.
    """

    def __init__(self, folder: Path, process: int = 0, processes: int = 1, began: int | None = None):
        self.process, self.processes = process, processes
        self.files = [folder / f"predictions-{each}.safetensors" for each in range(began or processes)]
        self._logits: Tensor | None = None

    def keep(self, logits: Tensor) -> None:
        """Take ``logits`` (n, classes) for the starting ones."""
        self._logits = logits.cpu()
        file = self.files[self.process]
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as temporary:
            save_file({"logits": self._logits.contiguous()}, temporary)

    def check(self) -> None:
        """Refuse to resume a run whose starting predictions are lost.

        Raises:
            TrainingError: naming the file.
        """
        for fault in filter(None, map(weights_damage, self.files)):
            raise TrainingError(
                f"{fault}, and it holds what max_prediction_drift compares with: start again with overwrite=True"
            )

    def drift(self, logits: Tensor, multi_label: bool) -> Tensor:
        """Sums over the images, ``(2,)``: 1 where the prediction has changed; KL(start || now) in nats.

        With several labels a prediction is the set of classes above one half, and the divergence a sum over classes.

        Args:
            logits: ``(n, classes)``, in the same order as at the start.
        """
        if self._logits is None:
            self._logits = self._read()
        start, now = self._logits.double(), logits.cpu().double()
        if multi_label:
            changed = ((start > 0) != (now > 0)).any(1)
            pairs = [[functional.logsigmoid(sign * each) for sign in (1, -1)] for each in (start, now)]
            start, now = (torch.stack(pair, dim=-1) for pair in pairs)
        else:
            changed = start.argmax(1) != now.argmax(1)
            start, now = start.log_softmax(1), now.log_softmax(1)
        return torch.stack([changed.double().sum(), (start.exp() * (start - now)).sum()])

    def _read(self) -> Tensor:
        """This process's share, of images that are dealt out in turn to as many processes as there are now."""
        parts = [load_file(str(file))["logits"] for file in self.files]
        dealt = torch.cat(parts)
        for each, part in enumerate(parts):
            dealt[each :: len(parts)] = part
        return dealt[self.process :: self.processes]
