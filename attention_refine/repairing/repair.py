"""``repair``: an audit, the recipe that measured best for the data, another audit, and what changed between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attention_refine.auditing.audit import examined, write
from attention_refine.auditing.record import Audit
from attention_refine.core.files import atomic_file
from attention_refine.hub import load
from attention_refine.recipe import (
    DataOptions,
    Recipe,
    load_split,
    load_splits,
    merged,
    prepare_evaluation,
    read_yaml,
    run,
    shipped,
    shown_objects,
)
from attention_refine.recipe.recommendation import Recommendation, joined, recommend, saved_model
from attention_refine.refined import Refined
from attention_refine.repairing.changes import Change, changes, headline, sentence
from attention_refine.repairing.page import Examined, write_page

Overrides = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Repair:
    """What :func:`repair` did. As text: the sentence, the model and the page, a line each.

    Attributes:
        sentence: what got better and worse beyond chance.
        recommendation: what the table says for this data; None where the recipe was chosen by hand.
        recipe: what was trained.
        before, after: the audits; ``after`` is None where nothing in the data says what to mend with.
        changes: every figure before and after, with its paired difference.
        model: the repaired one; the plain one, or the one given, where nothing was mended.
        model_path: its folder.
        page: ``repair.html``.
    """

    sentence: str
    recommendation: Recommendation | None
    recipe: Recipe
    before: Audit
    after: Audit | None
    changes: list[Change]
    model: Refined
    model_path: Path
    page: Path

    def __str__(self) -> str:
        return f"{self.sentence}\nmodel: {self.model_path}\nreport: {self.page}"


def repair(
    model: str | Path,
    source: str | Path,
    output: str | Path = "repair",
    *,
    goal: str = "accuracy",
    recipe: str | Path | None = None,
    overrides: Overrides | None = None,
    limit: int | None = None,
    say: Any = print,
) -> Repair:
    """Audit a model, mend it with the recipe that measured best for this data, audit it again, and compare.

    Of a backbone a plain fine-tune is trained first, with the recipe's settings, images and updates: it is audited before,
    and is the control. A saved model is audited as it is and goes on from there; no control is trained then, and the page
    says so.

    Args:
        model: the folder of a saved model or of a run, or a backbone's name as :func:`attention_refine.wrap` takes it.
        source: a folder or Hub id with splits to train on and to judge on (``train`` and ``test``; others by
            ``overrides``).
        output: a folder that gets ``repair.html``, ``recipe.yaml``, and ``before/`` and ``after/`` with models, results
            and an audit each.
        goal: as :func:`attention_refine.recommend` takes it.
        recipe: a YAML file or the name of a shipped config, in place of what is recommended.
        overrides: fields of the recipe by section, as the command line gives them.
        limit: so many test images are audited, spread over the split; None for all.
        say: gets lines of text on the way; ``print`` by default.

    Raises:
        ValueError: no test split, a saved model without the head that the recipe trains, and what
            :func:`attention_refine.recommend`, training and audits raise.
    """
    overrides = joined({"data": {"source": str(source)}}, overrides or {})
    output, saved = Path(output), saved_model(model)
    recommendation, plan = _planned(model, saved, goal, recipe, overrides)
    plan = replace(plan, training=replace(plan.training, output_dir=str(output / "after")))
    plain = plain_of(plan, output / "before")
    if plan.data.test_split is None:
        raise ValueError("a repair is judged on a test split: give data.test_split")
    if saved is not None:
        _check_head(saved, plan)
    why = str(recommendation) if recommendation else f"{recipe}: chosen by hand"
    output.mkdir(parents=True, exist_ok=True)
    with atomic_file(output / "recipe.yaml") as path:
        path.write_text(plan.to_yaml(), encoding="utf-8")
    say(f"{why}\nequivalent config: {output / 'recipe.yaml'}")

    splits = load_splits(plan.data, plan.training.seed)
    given = splits.pop("test")
    test = shown_objects(plan, given)
    if test is not given:
        say("nobody annotated the test images: what stands out in them is taken for the object")
    if saved is None:
        say("before: a plain fine-tune with the same settings, the control")
        done = run(plain, {name: split for name, split in splits.items() if name != "unlabeled"})
        first, first_path = done.model, done.model_path
    else:
        first, first_path = load(saved, device="cuda" if torch.cuda.is_available() else "cpu"), saved
    mends = replace(plan, training=replace(plan.training, output_dir=plain.training.output_dir)) != plain
    before = _audited(plan, first, test, output / "before", "before", limit)
    say(f"before: {before[0].verdict}")
    after, second, second_path = None, first, first_path
    if mends:
        done = run(plan, splits)
        second, second_path = done.model, done.model_path
        after = _audited(plan, second, test, output / "after", "after", limit)
        say(f"after: {after[0].verdict}")
    found = changes(before[0], after[0], plan.training.seed) if after else []
    said = sentence(found) if after else f"Nothing to mend with. {before[0].verdict}"
    page = write_page(
        output / "repair.html", said, headline(found), found, before, after, why=why, config=plan.to_dict(), control=saved is None,
        title=f"Repair of {first_path if saved else model} on {Path(plan.data.source).name}",
    )  # fmt: skip
    return Repair(
        said, recommendation, plan, before[0], after[0] if after else None, found, second, second_path, page
    )  # fmt: skip


def plain_of(recipe: Recipe, output: str | Path) -> Recipe:
    """The recipe without anything that mends: no head, objective, teacher, finer grid, made masks or balance."""
    model = replace(recipe.model, head=None, objectives=[], teacher=None, resolution=1)
    # A loss of an objective cannot choose the best epoch where there is no objective.
    monitor = "accuracy" if recipe.training.monitor.startswith("loss/") else recipe.training.monitor
    training = replace(
        recipe.training, output_dir=str(output), balance=None, annotated_per_batch=None, strategy="combined",
        monitor=monitor,
    )  # fmt: skip
    return replace(recipe, model=model, data=replace(recipe.data, propagate=None, unlabeled=None), training=training)


def _planned(
    model: str | Path, saved: Path | None, goal: str, recipe: str | Path | None, overrides: Overrides
) -> tuple[Recommendation | None, Recipe]:
    if recipe is not None:
        named = {"model": {"checkpoint": str(saved)} if saved else {"backbone": str(model)}}
        values = merged(read_yaml(shipped(str(recipe))), joined(named, overrides))
        return None, Recipe.from_dict(values, where=str(recipe))
    options = DataOptions.from_dict(dict(overrides["data"]))
    recommendation = recommend(load_split(options, options.train_split, []), model, goal=goal)
    return recommendation, recommendation.load(overrides)


def _check_head(saved: Path, recipe: Recipe) -> None:
    """A saved model keeps its head, so one that the recipe brings must be there already.

    Raises:
        ValueError: it is not.
    """
    if recipe.model.head is None:
        return
    wanted = recipe.model.head if isinstance(recipe.model.head, str) else recipe.model.head.get("name")
    head = load(saved).head
    if getattr(head, "name", None) != wanted:
        raise ValueError(
            f"the recipe trains the head {wanted!r}, and {saved} has {getattr(head, 'name', None) or 'none'}: repair its "
            "backbone by name, or choose a recipe without a head (--recipe repair_folder or energy_folder)"
        )


def _audited(recipe: Recipe, model: Refined, test: Any, output: Path, which: str, limit: int | None) -> Examined:
    found = examined(
        model, prepare_evaluation(recipe, model, test), map=map_of(model), groups=recipe.evaluation.groups, limit=limit,
        batch_size=recipe.evaluation.batch_size, seed=recipe.training.seed, progress=recipe.training.progress,
    )  # fmt: skip
    write(*found, output / "audit", title=f"Audit {which}: what the model looks at")
    found[0].evaluation.to_json(output / "evaluation.json")
    return found


def map_of(model: Refined) -> str:
    """Its own map; of a token transformer without a head gradient rollout, since its Grad-CAM is no better than chance."""
    tokens = model.head is None and model.backbone.site is not None and model.backbone.site.layout.format == "NLC"
    return "gradient_rollout" if tokens else "model"
