"""The support table, made by running: every family is built, wrapped and put to the laws a wrapped model must obey.

``attention-refine backbones > docs/backbones.md`` writes the whole of it (ten minutes on one core), ``--filter swin`` a part.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from .backbones.contexts import own_randomness
from .backbones.families import Example, examples
from .backbones.outputs import logits_of
from .backbones.probe import UnsupportedBackbone
from .hub import load
from .model import RefinedModel
from .output import RefinedOutput
from .wrapping import wrap

SEEN = 1e-4  # relative change of the logits from which a map counts as one that moved them
STEPS = 8


@dataclass(frozen=True)
class Findings:
    """How one wrapped network did.

    Attributes:
        site, layout, mechanism, branch: where the map acts, and how.
        map_size: of the map, for the images it was tried with.
        identity: largest difference of the logits at wrap from the network's own, relative to the largest logit.
        zero_map: whether a zero map gives the network's own logits bit for bit.
        moved: relative change of the logits under a random map.
        losses: over the first training steps on one batch.
        saved: whether the model that was saved and loaded gives the same logits and maps bit for bit.
    """

    site: str
    layout: str
    mechanism: str
    branch: str
    map_size: tuple[int, ...]
    identity: float
    zero_map: bool
    moved: float
    losses: tuple[float, ...]
    saved: bool

    @property
    def faults(self) -> list[str]:
        """Laws that were broken; none where everything works."""
        checks = {
            f"wrapping changes the logits by {self.identity:.1e}": self.identity > 1e-5,
            "a zero map is not the plain network": not self.zero_map,
            f"a random map moves the logits by {self.moved:.1e} only": self.moved < SEEN,
            "training does not lower the loss": not self.losses[-1] < self.losses[0],
            "the saved model differs": not self.saved,
        }
        return [fault for fault, broken in checks.items() if broken]


def examine(net: nn.Module, pixel_values: Tensor, **options: Any) -> Findings:
    """Wrap ``net`` with an attention branch and measure what the laws speak of.

    Args:
        net: a classifier in evaluation mode; it is trained for a few steps in the end.
        pixel_values: a batch of images of the size it takes.
        options: for :func:`attention_refine.wrap`.

    Raises:
        UnsupportedBackbone: no site was found.
    """

    with torch.no_grad():
        own = logits_of(net(pixel_values))
    model = wrap(net, head="abn", preprocessing={"input_size": list(pixel_values.shape[1:])}, **options).eval()
    if options:
        with torch.no_grad():
            own = model.backbone(pixel_values)  # another classifier was asked for
    site, head = model.backbone.found_site(), model.found_head()
    with torch.no_grad():
        output = model(pixel_values)
        zero = model(pixel_values, maps=torch.zeros_like(output.head_maps)).logits
        random = model(pixel_values, maps=torch.rand_like(output.head_maps)).logits
    return Findings(
        site=site.name,
        layout=site.layout.format + (f"+{site.layout.prefix}" if site.layout.prefix else ""),
        mechanism=site.mechanism,
        branch=head.config.branch,
        map_size=tuple(output.head_maps.shape[2:]),
        identity=float((output.logits - own).abs().max() / own.abs().max()),
        zero_map=torch.equal(zero, own),
        moved=float((random - own).norm() / own.norm()),
        saved=_comes_back(model, pixel_values, output),
        losses=_train(model, pixel_values),
    )


def _comes_back(model: RefinedModel, pixel_values: Tensor, output: RefinedOutput) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = load(folder)
        with torch.no_grad():
            again = loaded(pixel_values)
    return torch.equal(again.logits, output.logits) and torch.equal(again.head_maps, output.head_maps)


def _train(model: RefinedModel, pixel_values: Tensor) -> tuple[float, ...]:
    labels = torch.arange(len(pixel_values)) % model.num_labels
    # Small, with clipped gradients: a longer step overshoots in a network of a few channels.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    losses = []
    model.train()
    for module in model.modules():
        if "Drop" in type(module).__name__ and not list(module.children()):
            module.eval()  # its noise would hide whether the loss falls
    for _ in range(STEPS):
        with own_randomness(pixel_values.device):  # what drops out is the same in every step, wherever it is drawn
            loss = model(pixel_values, labels=labels).loss
        assert loss is not None, "labels were given"
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return tuple(losses)


@dataclass(frozen=True)
class Row:
    """One family in the table.

    Attributes:
        example: the network that was tried.
        findings: how it did; ``None`` where it was refused.
        works: whether every law holds.
        options: what ``wrap`` was given beside the head, where the default was refused.
        why_not: the refusal, or the laws that were broken; empty where it works.
    """

    example: Example
    findings: Findings | None
    options: dict[str, Any] = field(default_factory=dict)
    why_not: str = ""

    @property
    def works(self) -> bool:
        return self.findings is not None and not self.why_not


def row(example: Example) -> Row:
    """Try one family; where the plain call is refused, with patches pooled instead. An error is a finding too."""
    try:
        return _tried(example)
    except UnsupportedBackbone as refusal:
        try:
            return _tried(example, pool="avg")
        except UnsupportedBackbone:
            return Row(example, None, why_not=str(refusal))
        except Exception as error:
            return Row(example, None, {"pool": "avg"}, _in_a_line(error))
    except Exception as error:  # one network that breaks does not cost the rows of all the others
        return Row(example, None, why_not=_in_a_line(error))


def _tried(example: Example, **options: Any) -> Row:
    findings = examine(*example.build(), **options)
    return Row(example, findings, options, "; ".join(findings.faults))


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: " + " ".join(str(error).split()).replace("|", "/")


def rows(filter: str = "") -> Iterator[Row]:
    """One row after the other, each as soon as it is measured: families whose name contains ``filter``."""
    for example in examples(filter):
        yield row(example)
        gc.collect()  # one network in memory at a time


COLUMNS = ("family", "tried with", "site", "layout", "mechanism", "branch", "map", '`head="abn"`')


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, under :data:`COLUMNS`."""
    found = row.findings
    name = f"{row.example.library} {row.example.family}"
    verdict = "yes" if row.works else f"no: {row.why_not}"
    if row.options:
        verdict += ", with " + ", ".join(f"`{key}={value!r}`" for key, value in row.options.items())
    if found is None:
        return (name, row.example.model, "-", "-", "-", "-", "-", verdict)
    size = "x".join(map(str, found.map_size))
    return (name, row.example.model, f"`{found.site}`", found.layout, found.mechanism, found.branch, size, verdict)


def markdown(table: Iterable[Row]) -> Iterator[str]:
    """The document's lines, each row as it comes."""
    yield "# Backbones"
    yield ""
    yield "Made by `attention-refine backbones > docs/backbones.md`, by running every row; do not edit."
    yield (
        ", ".join(f"{package} {version(package).split('+')[0]}" for package in ("torch", "timm", "transformers")) + "."
    )
    yield ""
    yield "A row says *yes* when a network of that family, wrapped with an attention branch, gives its own logits at"
    yield "wrap (1e-5) and bit for bit under a zero map, is moved by a random map, lowers its loss in eight training"
    yield "steps on one batch, and comes back from disk bit-equal. Sites and sizes are those of the small network"
    yield "tried, at a small image; mechanisms and branches are explained in `attention_refine/backbones/sites.py` and"
    yield "`attention_refine/heads/abn.py`."
    yield "Only the attention branch was run; objectives were not."
    yield ""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"|{'---|' * len(COLUMNS)}"
    counts: dict[str, list[int]] = {}
    for one in table:
        yield f"| {' | '.join(cells(one))} |"
        count = counts.setdefault(one.example.library, [0, 0, 0])
        count[0] += one.works and not one.options
        count[1] += one.works and bool(one.options)
        count[2] += 1
    yield ""
    for library, (plain, with_options, total) in counts.items():
        yield f"{library}: {plain} of {total} work as they are, {with_options} more with patches pooled."
