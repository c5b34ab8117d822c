"""A network straight from its initialiser, made to behave as a trained one does, so that it can be probed.

Fresh networks hide what they are: layer scales of 1e-6 and zero-initialised classifiers make the logits nearly the same
for every image, and batch norm with statistics nobody has measured lets activations die out or blow up over the depth.
Whether a map would act after training cannot be read off such logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .contexts import own_randomness, quiet

_SMALL = 0.1  # a constant this small is a gate still closed: layer scale, a zero-initialised residual or classifier


def liven(net: nn.Module, pixel_values: Tensor, passes: int = 2) -> nn.Module:
    """Open constant gates and measure batch norm's statistics on noise, in place; returns ``net``.

    Args:
        net: a network with fresh weights; its own are overwritten.
        pixel_values: an example batch, for shape, device and type.
        passes: batches of four noise images to measure on.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    with own_randomness(pixel_values.device), torch.no_grad(), quiet(net):
        for name, parameter in net.named_parameters():
            if not name.endswith("bias") and _is_closed_gate(parameter):
                parameter.copy_(0.2 * torch.randn_like(parameter))
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over the passes
            norm.train()
        for _ in range(passes):
            net(pixel_values.new_empty(4, *pixel_values.shape[1:]).normal_())
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
    return net


def _is_closed_gate(parameter: Tensor) -> bool:
    return (
        parameter.numel() > 1
        and parameter.is_floating_point()
        and bool(parameter.abs().max() < _SMALL and (parameter == parameter.flatten()[0]).all())
    )
