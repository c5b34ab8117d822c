"""What a person does with a model that is made: explain, show, refine, save and send it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .backbones.classifier import LastLinear
from .backbones.contexts import quiet
from .backbones.zero_shot import ZeroShotClassifier
from .core.model_inputs import name_also
from .maps._attention_weights import pools_a_token
from .maps._registry import by_name
from .maps._scale import resize
from .objectives._base import Objective, Objectives, check_adds, objectives
from .refined import Refined

if TYPE_CHECKING:
    from .explanation.clip import ClipExplanation
    from .explanation.image import Explanation
    from .hf_auto.config import RefinedConfig
    from .output import RefinedOutput


class ModelUses(Refined):
    """The methods of :class:`~attention_refine.model.RefinedModel` that call it, or hand it on; none is part of a pass."""

    objectives: Objectives

    @torch.no_grad()
    def explain(
        self, pixel_values: Tensor, target: Any = None, method: str = "auto", prompt: str | None = None
    ) -> Tensor:
        """``(B, K, H, W)`` at image size, in evaluation mode whatever the mode is.

        Args:
            pixel_values: ``(B, 3, H, W)``, normalised.
            target: the class explained, for maps that have one; the predicted one by default.
            method: ``"auto"`` for the map that :meth:`explained_by` says, with a warning where it is not the head's;
                ``"model"`` for the head's map in [0, 1] at any time, Grad-CAM without a head. Or the name of a map in
                :mod:`attention_refine.maps`, as it comes.
            prompt: in place of ``target``, a text that the map is to be of; of a model from
                :func:`attention_refine.zero_shot`.

        Raises:
            ValueError: no map of that name, or a prompt of a model that reads no texts, or beside a target.
        """
        chosen = self.explained_by(method)
        if prompt is not None:
            net = self.backbone.net
            if not isinstance(net, ZeroShotClassifier):
                raise ValueError("a prompt is of models that read texts: make one with ar.zero_shot")
            if target is not None or chosen == "model":
                other = f"target={target!r}" if target is not None else "the map of a head"
                raise ValueError(f"prompt={prompt!r} is of no class: leave {other} out (method='legrad')")
            return resize(by_name(chosen)(net.of([prompt]), pixel_values, target=0), pixel_values.shape[2:])
        if method == "auto" and self.head is not None and chosen != "model":
            warnings.warn(
                f"the map of this {self.head.name!r} head has not come in by training yet, so explain shows {chosen}; "
                "method='model' shows the head's own",
                stacklevel=3,  # the caller, past no_grad
            )
        if chosen == "model":
            with quiet(self):
                made = self(pixel_values, compute_losses=False).maps
        else:
            made = by_name(chosen)(self, pixel_values, target=target)
        assert made is not None, "explained_by says 'model' where there is a head"
        return resize(made, pixel_values.shape[2:])

    def explained_by(self, method: str = "auto") -> str:
        """What :meth:`explain` shows for a method: ``"model"``, the head's own map, or a name in ``ar.maps``.

        ``"auto"`` is the head's once training has brought it in; else, and without a head, gradient rollout where the
        class token's attention makes the prediction (Grad-CAM of such a network lies on objects no better than chance
        after fine-tuning, docs/results.md), and Grad-CAM elsewhere.
        """
        if method not in ("auto", "model"):
            return method
        if self.head is not None and (method == "model" or self.head.has_come_in()):
            return "model"
        site = self.backbone.site  # a model without a head has none
        may_pool_a_token = method == "auto" and (site is None or site.layout.format == "NLC")
        return "gradient_rollout" if may_pool_a_token and pools_a_token(self.backbone) else "grad_cam"

    def embed(self, pixel_values: Tensor) -> Tensor:
        """``(B, D)``, what the images are told apart by: the input of the classifier.

        With a head that classifies that is its parts side by side, most active first; else what the backbone pools,
        after the map acted. Gradients flow where they are on, and the mode is the model's own.

        Raises:
            ValueError: the classifier is no linear layer on a vector an image, or there is one pass for each class.
        """
        if self.head is not None and self.head.classifies:
            return self._embedding(self.run(pixel_values, compute_aux=False, keep=False))
        self._check_one_embedding()
        with LastLinear() as last:
            output = self(pixel_values, compute_losses=False)
        return self._embedding(output, last)

    def _check_one_embedding(self) -> None:
        if self.head is not None and self.head.per_class:
            raise ValueError("with a map for each class an image has an embedding for each: wrap it with maps='shared'")

    def _embedding(self, output: RefinedOutput, last: LastLinear | None = None) -> Tensor:
        """What the classifier read: the head's, or the backbone's in the pass that ``last`` watched."""
        if output.embedding is not None:
            return output.embedding
        whole = last is not None and last.output is not None and last.output.shape == output.logits.shape
        read = last.input if last is not None and whole else None
        if read is None or read.ndim != 2:
            raise ValueError(
                f"{type(self.backbone.net).__name__} has no linear classifier on one vector an image, so it has no "
                "embedding; pool its patches with pool='avg', or wrap it with head='brnpa'"
            )
        return read

    def add_objective(self, objective: str | Objective) -> None:
        """Give a model, a loaded one for example, a further objective; one of the same name makes room.

        Raises:
            ValueError: an unknown name, or an objective that does not fit the model.
            TypeError: neither a name nor an objective.
        """
        made = objectives.made(objective, Objective)
        made.attach(self)
        check_adds([each for name, each in self.objectives.items() if name != made.name] + [made])
        name_also(type(self).forward, made.reads)
        parameter = next(self.parameters())
        self.objectives[made.name] = made.to(parameter.device).train(self.training)

    def refine(
        self, pixel_values: Tensor, steps: int = 3, learning_rate: float = 0.01, together: bool = False
    ) -> Tensor:
        """``(B, 1, h, w)``, maps after a few unsupervised steps on each image (or ``together`` on all); needs DARC.

        The steps are taken on a copy: the model stays as it is. ``steps=1`` is for real time. For the record of losses
        and changes see :func:`attention_refine.objectives.darc.refinement.refine`, which this calls.
        """
        from .objectives.darc.refinement import refine

        return refine(self, pixel_values, steps, learning_rate, together).maps

    def preprocess(self, image: Any) -> Tensor:
        """``(1, 3, H, W)`` from a PIL image or a path, on the model's device, as the backbone was trained to see it.

        For a network of clips ``(1, 3, T, H, W)``, the middle of a video, from its path or bytes.
        """
        from .data import Transform, read_clip, read_image

        where = str(image) if isinstance(image, (str, Path)) else "the image"
        clips = len(self.preprocessing["input_size"]) == 4
        read = read_clip(image, self.preprocessing).frames if clips else read_image(image, where)
        pixels = Transform(self.preprocessing)(read)["pixel_values"]
        return pixels[None].to(next(self.parameters()).device)

    def show(
        self, image: Any, target: int | str | None = None, method: str = "auto", whole: bool = False
    ) -> Explanation | ClipExplanation:
        """The whole photograph with the map over what the model saw of it, the class and its probability.

        In a notebook it shows itself; ``.save("shown.png")`` writes it. Arguments, attributes and errors are those of
        :func:`attention_refine.explanation.explain_image`. A model of clips takes a video, and shows its frames:
        :func:`attention_refine.explanation.clip.explain_clip`, without ``whole``.
        """
        if len(self.preprocessing["input_size"]) == 4:
            from .explanation.clip import explain_clip

            if whole:
                raise ValueError("whole=True is of photographs: a clip is looked at as the model was trained to")
            return explain_clip(self, image, method=method, target=target)
        from .explanation.image import explain_image

        return explain_image(self, image, method=method, target=target, whole=whole)

    @property
    def config(self) -> RefinedConfig:
        """What transformers.Trainer and its trackers read of a model: class names, and that predictions are logits.

        Made from the model each time: what is set on it changes nothing.
        """
        from .hf_auto.config import RefinedConfig

        return RefinedConfig(labels=self.labels, preprocessing=self.preprocessing)

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write ``config.json`` and ``model.safetensors``: see :func:`attention_refine.hub.save_pretrained`."""
        from .hub import save_pretrained

        save_pretrained(self, folder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Send it to the Hub as one commit: see :func:`attention_refine.hub.push_to_hub`."""
        from .hub import push_to_hub

        return push_to_hub(self, repo_id, **options)

    def export_backbone(self, folder: str | Path) -> None:
        """Write the backbone alone, as timm or transformers load it: see :mod:`attention_refine.export`."""
        from .export import export_backbone

        export_backbone(self, folder)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Refined:
        """What :meth:`save_pretrained` wrote, in evaluation mode: see :func:`attention_refine.hub.from_pretrained`."""
        from .hub import from_pretrained

        return from_pretrained(source, **options)
