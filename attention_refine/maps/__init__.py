"""Maps read out of any classifier: functions of a network and its input, with no state and nothing left behind.

All are called alike: ``(net, pixel_values, target=None, site="auto", create_graph=False, ...) -> (B, T, h, w)``.
"""

from ._attention_weights import AttentionWeights
from ._registry import Map, by_name, list_maps, register_map
from ._scale import normalize, resize, threshold
from ._second_order import twice_differentiable
from .eigen_cam import eigen_cam
from .grad_cam import grad_cam
from .grad_cam_variants import grad_cam_plus_plus, layer_cam
from .gradient import gradient, input_x_gradient, smooth_grad
from .guided_activations import guided_activations
from .guided_backprop import guided_backprop
from .guided_grad_cam import grad_cam_and_guided_backprop, guided_grad_cam
from .integrated_gradients import integrated_gradients
from .integrated_to_error import Integrated, integrated_gradients_to_error
from .legrad import legrad
from .occlusion import occlusion
from .rise import rise
from .rollout import attention_rollout, class_attention, gradient_rollout
from .score_cam import score_cam

__all__ = [
    "AttentionWeights",
    "Integrated",
    "Map",
    "attention_rollout",
    "by_name",
    "class_attention",
    "eigen_cam",
    "grad_cam",
    "grad_cam_and_guided_backprop",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_rollout",
    "guided_activations",
    "guided_backprop",
    "guided_grad_cam",
    "input_x_gradient",
    "integrated_gradients",
    "integrated_gradients_to_error",
    "layer_cam",
    "legrad",
    "list_maps",
    "normalize",
    "register_map",
    "occlusion",
    "resize",
    "rise",
    "score_cam",
    "smooth_grad",
    "threshold",
    "twice_differentiable",
]


def __dir__() -> list[str]:
    return sorted(__all__)
