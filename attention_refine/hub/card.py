"""The model card: what a person who finds the model on the Hub needs, from what the model and its evaluation know."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import Tensor

from ..core.path_redaction import command_without_places, without_places
from ..refined import Refined
from .checkpoint import CARD
from .config import for_others
from .retry import redacted

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from ..evaluation.results import Evaluation

PICTURE = "maps.png"
LEADERBOARD = ".eval_results/attention_refine.yaml"
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")


@dataclass
class Card:
    """What a model card says beside what the model knows of itself. Every field may be left out.

    Args:
        evaluation: from :func:`attention_refine.evaluate`; its measures and intervals go into the card's tables and, as
            evaluation results, into its metadata.
        images: PIL images, paths, or ``(3, H, W)`` tensors as the model takes them; the model's maps are drawn over
            them, in one picture (at most 12).
        dataset: Hub id or name of the data it was trained and judged on. Of a path, as of paths in ``config``, only the
            last name is told.
        split: of ``dataset``, that ``evaluation`` is of.
        licence: of the weights, an identifier of the Hub's such as ``"apache-2.0"``; by default that of the base
            weights, where it can be found out.
        base_model: Hub id of those; found in the model by default.
        command: that trained it; paths in it are told by their last name, too.
        config: that it was trained with, as :meth:`attention_refine.recipe.Recipe.to_dict` gives it.
        description: a paragraph of one's own.
        intended_use, limits: replace the standard paragraphs.
    """

    evaluation: Evaluation | None = None
    images: Sequence[Any] = ()
    dataset: str | None = None
    split: str | None = None
    licence: str | None = None
    base_model: str | None = None
    command: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    intended_use: str = ""
    limits: str = ""

    def __post_init__(self) -> None:
        self.dataset, self.config = without_places(self.dataset), without_places(dict(self.config))
        self.command = self.command and command_without_places(self.command)

    def write(
        self,
        model: Refined,
        repo_id: str,
        folder: Path,
        licence_of: Callable[[str], str | None] = lambda base_model: None,
    ) -> None:
        """``README.md``, and the pictures and results it goes with, into a folder.

        Args:
            licence_of: asked for the licence of the base weights where neither the card nor the network knows.
        """
        if self.images:
            map_grid(model, list(self.images)[:12]).save(folder / PICTURE)
        results = self.results(repo_id)
        (folder / CARD).write_text(self.render(model, repo_id, results, licence_of), encoding="utf-8")
        if results and _is_hub_id(self.dataset):
            path = folder / LEADERBOARD
            path.parent.mkdir()
            path.write_text(_leaderboard(results), encoding="utf-8")

    def render(
        self,
        model: Refined,
        repo_id: str,
        results: list[EvalResult],
        licence_of: Callable[[str], str | None] = lambda base_model: None,
    ) -> str:
        """The text of ``README.md``: metadata and Markdown, everything in it that comes from outside escaped."""
        from huggingface_hub import ModelCard, ModelCardData

        spec, clips = model.backbone.spec, len(model.preprocessing["input_size"]) == 4
        base = self.base_model or base_model_of(model)
        licence = self.licence or _own_licence(model) or (licence_of(base) if base else None)
        data = ModelCardData(
            library_name="attention_refine",
            pipeline_tag="video-classification" if clips else "image-classification",
            tags=["attention_refine", "explainability", *([model.head.name] if model.head else []), *model.objectives],
            license=licence,
            base_model=base,
            datasets=[self.dataset] if self.dataset and _is_hub_id(self.dataset) else None,
            model_name=repo_id.rpartition("/")[2],
            eval_results=results or None,
        )
        card = ModelCard.from_template(
            data,
            template_str=(files("attention_refine.hub") / "card.md.jinja").read_text(encoding="utf-8"),
            repo_id=repo_id,
            clips=clips,
            name=markdown(repo_id.rpartition("/")[2]),
            backbone=markdown(spec.name if spec else type(model.backbone.net).__name__),
            source=spec.source if spec else "",
            base=markdown(base or ""),
            origin=markdown(without_places(spec.origin if spec else None) or ""),
            licence=markdown(licence or ""),
            head=_part(model.head),
            objectives=[_part(objective) for objective in model.objectives.values()],
            site=markdown(model.backbone.site.name) if model.backbone.site else "",
            input_size=" x ".join(map(str, model.preprocessing["input_size"])),
            classes=model.num_labels,
            labels=[markdown(label) for label in model.labels[:20]],
            dataset=markdown(self.dataset or ""),
            split=markdown(self.split or ""),
            images=PICTURE if self.images else "",
            results=[_row(result) for result in results],
            counts=self.evaluation.summary["images"] if self.evaluation else {},
            command=_fenced(self.command or "", "bash"),
            config=_fenced(yaml.safe_dump(dict(self.config), sort_keys=False) if self.config else "", "yaml"),
            description=markdown(self.description),
            intended_use=markdown(self.intended_use),
            limits=markdown(self.limits),
            parameters=f"{sum(value.numel() for value in model.parameters()) / 1e6:.2f} M",
        )
        return redacted(card.content)

    def results(self, repo_id: str) -> list[EvalResult]:
        """The evaluation's measures in the form the Hub shows."""
        from huggingface_hub import EvalResult

        if self.evaluation is None:
            return []
        summary = self.evaluation.summary
        cells = [(name, _title(name), cell) for name, cell in summary["classification"].items()]
        for column, found in summary.get("groups", {}).items():
            for group, cell in found["accuracy"].items():
                cells.append((f"accuracy/{column}={group}", f"Accuracy where {column} is {group}", cell))
        for of, measured in summary["maps"].items():
            cells += [(f"{of}/{name}", f"{_title(name)} of the map {of!r}", cell) for name, cell in measured.items()]
        return [
            EvalResult(
                task_type="image-classification",
                dataset_type=self.dataset if self.dataset and _is_hub_id(self.dataset) else "custom",
                dataset_name=self.dataset or "custom",
                dataset_split=self.split,
                metric_type=kind,
                metric_name=title,
                metric_value=cell["value"],
                metric_args={key: cell.get(key) for key in ("low", "high", "level", "count")},
            )
            for kind, title, cell in cells
            if cell["value"] is not None
        ]


def map_grid(model: Refined, images: Sequence[Any], side: int = 224) -> Any:
    """A PIL picture: each image as the model sees it, and under it the same with the model's map drawn over it.

    Of videos each is a strip of frames, and the strips stand under one another.
    """
    from PIL import Image

    from ..drawing.overlay import denormalize, overlay

    if len(model.preprocessing["input_size"]) == 4:
        return _clip_grid(model, images)
    sheet = Image.new("RGB", (len(images) * side, 2 * side), "white")
    for column, image in enumerate(images):
        pixels = image[None] if isinstance(image, Tensor) else model.preprocess(image)
        picture = denormalize(pixels, model.preprocessing)
        drawn = overlay(picture, model.explain(pixels, method="model")[0].mean(0))
        for row, each in enumerate((picture, drawn)):
            sheet.paste(each.resize((side, side), Image.Resampling.BILINEAR), (column * side, row * side))
    return sheet


def _clip_grid(model: Refined, clips: Sequence[Any]) -> Any:
    from PIL import Image

    from ..drawing.frames import pictures_of, side_by_side, spread, with_maps

    strips = []
    for clip in clips:
        pixels = clip[None] if isinstance(clip, Tensor) else model.preprocess(clip)
        pictures = pictures_of(pixels[0], model.preprocessing)
        drawn = with_maps(pictures, model.explain(pixels, method="model")[0].mean(0))
        strips += [side_by_side([frames[i] for i in spread(len(frames))]) for frames in (pictures, drawn)]
    sheet = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)), "white")
    for place, strip in enumerate(strips):
        sheet.paste(strip, (0, place * strip.height))
    return sheet


def base_model_of(model: Refined) -> str | None:
    """Hub id of the weights the backbone started from, where they have one."""
    spec = model.backbone.spec
    if spec is None or not spec.origin:
        return None
    if spec.source == "timm" and re.fullmatch(r"\w+\.\w+", spec.origin, re.ASCII):
        return f"timm/{spec.origin}"
    return spec.origin if spec.source == "transformers" and _is_hub_id(spec.origin) else None


def markdown(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line: labels and names come from anywhere."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def _is_hub_id(name: str | None) -> bool:
    """Whether it is ``user/name``, and no folder here that looks like it."""
    name = name or ""
    found = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, re.ASCII)
    return found is not None and not Path(name).exists()


def _own_licence(model: Refined) -> str | None:
    """timm says it beside the weights."""
    if base_model_of(model) is None:  # fresh weights: the architecture's page says nothing about these
        return None
    return (getattr(model.backbone.net, "pretrained_cfg", None) or {}).get("license")


def _part(part: Any) -> str:
    if part is None:
        return ""
    given = for_others(part.to_dict())["options"].items()
    options = ", ".join(f"{key}={value}" for key, value in given if value is not None)
    return f"**{markdown(part.name)}** ({markdown(options)})"


def _title(measure: str) -> str:
    from ..metrics._registry import described

    return described(measure).title


def _row(result: EvalResult) -> dict[str, str]:
    args = result.metric_args or {}
    low, high = args["low"], args["high"]
    interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return {
        "name": markdown(result.metric_name or result.metric_type),
        "value": f"{result.metric_value:.3f}",
        "interval": interval,
        "count": str(args["count"] or ""),
    }


def _leaderboard(results: list[EvalResult]) -> str:
    """The Hub's own format of evaluation results; model-index in the card is the older one."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = [
        EvalResultEntry(
            dataset_id=result.dataset_type,
            task_id=result.metric_type,
            value=result.metric_value,
            notes=f"95 % interval {_row(result)['interval']}, {_row(result)['count']} images",
        )
        for result in results
        if "=" not in result.metric_type  # a single group's accuracy is no task of its own
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def _fenced(text: str, language: str) -> str:
    """A code block that its content cannot close."""
    if not text.strip():
        return ""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"
