"""What happens at the site while a network's own forward runs, once; and again where a part of it is checkpointed.

Gradient checkpointing runs parts of the network a second time in the backward pass, when the hook at the site is gone.
What the site sent on in the first run is then put in the place of what it returns, and the contexts of what follows it
are entered as they were. What the hook itself computes stays out of the part that is checkpointed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .contexts import checkpoints, is_checkpointed, output_hook
from .outputs import feature_of, with_first_tensor
from .partial_forward import last_called

Context = AbstractContextManager[Any]
MakesContext = Callable[[], Context]
# Of what the site's module returned, what it is to have returned, and what makes the contexts of all that follows.
AtSite = Callable[[Any], tuple[Any, tuple[MakesContext, ...]]]


class Passage:
    """While it lasts, ``at_site`` stands behind a module and its other hooks; once it was there, its contexts are entered.

    An :class:`~contextlib.ExitStack` would do for these, but ``torch.compile`` cannot follow one.

    Attributes:
        sent: what went on from the site; ``None`` before it was reached.
    """

    def __init__(self, net: nn.Module, name: str, at_site: AtSite):
        self.net, self.name, self.at_site = net, name, at_site
        self.module = net.get_submodule(name)
        self.sent: Any = None
        self.contexts: tuple[MakesContext, ...] = ()
        self.entered: list[Context] = []

    def __enter__(self) -> Passage:
        hook = self._hook
        if not torch.compiler.is_compiling():
            last = last_called(self.module)
            if last is not self.module and any(map(checkpoints, self._callers())):
                self.module = last  # a caller that checkpoints runs a chain module by module
        if not torch.compiler.is_compiling() and torch.is_grad_enabled() and is_checkpointed(self.net):
            hook = self._unseen
            self._enter(recomputing(self.net, lambda: self._once_more(self.sent is not None)))
        self._enter(output_hook(self.module, hook))
        return self

    def __exit__(self, *error: Any) -> None:
        while self.entered:
            self.entered.pop().__exit__(*error)

    def _callers(self) -> Iterator[nn.Module]:
        module = self.net
        for child in self.name.split("."):
            yield module
            module = getattr(module, child)

    def _enter(self, context: Context) -> None:
        context.__enter__()
        self.entered.append(context)

    def _hook(self, module: nn.Module, args: Any, output: Any) -> Any:
        self.sent, self.contexts = self.at_site(output)
        for make in self.contexts:
            self._enter(make())
        return self.sent

    def _unseen(self, module: nn.Module, args: Any, output: Any) -> Any:
        with saved_tensors_hooks(_itself, _itself):  # hides those of the part that is checkpointed
            return self._hook(module, args, output)

    @contextmanager
    def _once_more(self, behind: bool) -> Iterator[None]:
        """For a part that runs again: the site lies ``behind`` it, or is in it or ahead."""
        with ExitStack() as stack:

            def enter() -> None:
                for make in self.contexts:
                    stack.enter_context(make())

            def replay(module: nn.Module, args: Any, output: Any) -> Any:
                enter()
                tensor = feature_of(self.sent)
                return with_first_tensor(output, tensor.detach().requires_grad_(tensor.requires_grad))

            if behind:
                enter()
            else:
                stack.enter_context(output_hook(self.module, replay))
            yield


def _itself(tensor: Tensor) -> Tensor:
    return tensor


@contextmanager
def recomputing(net: nn.Module, again: MakesContext) -> Iterator[None]:
    """What the network checkpoints inside is recomputed, in the backward pass, in the context that ``again()`` makes.

    ``again`` is called whenever a checkpointed part begins. timm calls :func:`torch.utils.checkpoint.checkpoint`;
    transformers keeps it on its layers.

    Raises:
        RuntimeError: reentrant checkpointing, whose first run has no gradient.
    """
    holders = [(m, "_gradient_checkpointing_func") for m in net.modules() if "_gradient_checkpointing_func" in vars(m)]
    replaced = [(each, name, getattr(each, name)) for each, name in [(torch.utils.checkpoint, "checkpoint"), *holders]]

    def within(run: Callable[..., Any]) -> Callable[..., Any]:
        def checkpoint(function: Any, *args: Any, **kwargs: Any) -> Any:
            options = {**getattr(run, "keywords", {}), **kwargs}  # transformers' is a partial
            if options.get("use_reentrant") is not False:
                raise RuntimeError(
                    "a backbone with a site cannot be trained with reentrant gradient checkpointing, which gives the "
                    "site no gradient; use the other kind (timm: timm.layers.set_reentrant_ckpt(False), transformers: "
                    "gradient_checkpointing_enable({'use_reentrant': False}))"
                )
            own = options.get("context_fn", torch.utils.checkpoint.noop_context_fn)

            def contexts() -> tuple[Context, Context]:
                forward, backward = own()
                return forward, _both(backward, again())

            return run(function, *args, **{**kwargs, "context_fn": contexts})

        return checkpoint

    try:
        for each, name, run in replaced:
            setattr(each, name, within(run))
        yield
    finally:
        for each, name, run in replaced:
            setattr(each, name, run)


@contextmanager
def _both(first: Context, second: Context) -> Iterator[None]:
    with first, second:
        yield
