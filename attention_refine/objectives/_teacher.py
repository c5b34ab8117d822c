"""A second model that an objective learns from: frozen, and no part of the model that is trained.

One given by folder or Hub id is stored as that and loaded at the first step that needs it, so that a model that predicts
never fetches a second one. One given as an object is stored as the word ``"object"``: such a model loads and predicts
anywhere, and needs its teacher given again to be trained further.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch import nn

from ..core.path_redaction import marked
from ..refined import Refined, saved

OBJECT = "object"  # what stands in a saved config for a teacher that was an object


class Teacher:
    """Holds the second model; it is not in ``modules()``, is not copied with the objective, and keeps its own flags.

    Args:
        owner: the objective's class, which messages begin with.
        given: a network, or where one is saved, or ``None``.

    Raises:
        TypeError: none of these.
    """

    def __init__(self, owner: str, given: nn.Module | str | os.PathLike | None):
        if given is not None and not isinstance(given, (nn.Module, str, os.PathLike)):
            raise TypeError(f"{owner}: teacher={given!r} is neither a folder, a Hub id nor a model")
        self.owner = owner
        self.network = given if isinstance(given, nn.Module) else None
        self.source = OBJECT if self.network is not None else None if given is None else marked(str(given))

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        """The same network, not a copy of it."""
        made = Teacher(self.owner, self.network if self.network is not None else self.source)
        made.source = self.source  # one that was loaded stays known by where it lies
        return made

    def of(self, model: Refined, check: Callable[[nn.Module], None] | None = None) -> nn.Module:
        """The network, where the model is; loaded at the first call.

        Args:
            check: further conditions, asked of one that has just been loaded.

        Raises:
            ValueError: the model was saved with a teacher that was an object, or the classes are not the model's.
        """
        if self.network is None:
            if self.source == OBJECT:
                raise ValueError(
                    f"{self.owner}: this model was saved without its teacher, which was an object; give it again with "
                    f"model.add_objective(ar.{self.owner}(teacher=...))"
                )
            assert self.source is not None, "attach refuses one that was never given"
            loaded = saved(self.source)
            self.check_classes(model, loaded)
            if check is not None:
                check(loaded)
            self.network = loaded
        return self.network.to(next(model.parameters()).device)

    def check_classes(self, model: Refined, network: nn.Module) -> None:
        """Number and order of the classes, as far as the network says them.

        Raises:
            ValueError: they are not the model's.
        """
        labels = getattr(network, "labels", None)
        if labels is None:
            return
        if len(labels) != model.num_labels:
            raise ValueError(f"{self.owner}: the teacher has {len(labels)} classes, the student {model.num_labels}")
        if set(labels) == set(model.labels) and list(labels) != list(model.labels):
            raise ValueError(
                f"{self.owner}: teacher and student have the same classes in another order; wrap the student with the "
                f"teacher's labels ({', '.join(labels[:3])} ...)"
            )
