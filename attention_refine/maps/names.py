"""Maps by name, for the command line and for evaluation."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from torch import Tensor

from .eigen_cam import eigen_cam
from .grad_cam import grad_cam
from .grad_cam_variants import grad_cam_plus_plus, layer_cam
from .gradient import gradient, input_x_gradient, smooth_grad
from .guided_backprop import guided_backprop
from .guided_grad_cam import guided_grad_cam
from .integrated_gradients import integrated_gradients
from .occlusion import occlusion
from .rise import rise
from .rollout import attention_rollout, class_attention, gradient_rollout
from .score_cam import score_cam

_MAPS = {
    function.__name__: function
    for function in (
        attention_rollout, class_attention, eigen_cam, grad_cam, grad_cam_plus_plus, gradient, gradient_rollout,
        guided_backprop, guided_grad_cam, input_x_gradient, integrated_gradients, layer_cam, occlusion, rise, score_cam,
        smooth_grad,
    )
}  # fmt: skip
CLASSLESS = ("attention_rollout", "class_attention", "eigen_cam")  # the same for every class: they refuse a target


def list_maps() -> list[str]:
    """Names :func:`by_name` knows."""
    return sorted(_MAPS)


def by_name(name: str) -> Callable[..., Tensor]:
    """The map function of that name.

    Raises:
        ValueError: none has it; the message lists those there are.
    """
    if name not in _MAPS:
        close = difflib.get_close_matches(name, _MAPS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"map {name!r} is not one of {', '.join(list_maps())}{hint}")
    return _MAPS[name]
