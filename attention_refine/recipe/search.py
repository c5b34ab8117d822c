"""A search over a recipe's options by optuna: each trial is a run of its own, judged on the validation images."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import atomic_file
from ..core.options import Options, option, suggestion
from ..training import TrainingError, TrainingResult, make_accelerator
from ..training.config import larger_is_better
from .building import load_splits
from .run import trained
from .schema import Recipe

if TYPE_CHECKING:
    import optuna

JOURNAL = "search.journal"
NAME = "search"
STARTUP = 5  # whole trials before one is pruned


@dataclass
class SearchOptions(Options):
    """What a search tries, and what it looks for: the section ``search`` of a YAML file."""

    space: dict | None = option(
        None, "options by path, {training.learning_rate: {low: 1e-5, high: 1e-2, log: true}, model.head: {choices: [abn, "
        "brnpa]}}; further parts of a path are an option of the head, or an objective's name and option",
    )  # fmt: skip
    metrics: list[str] = option(["accuracy"], "validation metrics of the best epoch; of several the Pareto set is kept")
    trials: int = option(20, "runs in all", at_least=1)
    prune: bool = option(True, "end a run that is behind the median of the others at its epoch; with one metric only")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.space or not self.metrics:
            missing = "space" if not self.space else "metrics"
            raise ValueError(f"{missing} is empty: a search needs something to try (space) and to look for (metrics)")
        for path, given in self.space.items():
            _check_range(path, given)


class Search:
    """The trials of a recipe, those before this one among them where it is resumed.

    Args:
        values: the recipe as nested plain values.

    Raises:
        ImportError: optuna is not installed.
        ValueError: a path that is no option, a folder that holds another search, or one to resume without being asked.
    """

    def __init__(self, values: dict[str, Any], options: SearchOptions):
        self.values, self.options, self.space = values, options, options.space or {}
        self.base = Recipe.from_dict(values)
        self.output = Path(self.base.training.output_dir)
        self.study = self._study()
        moves = any(path.startswith("data.") for path in self.space)
        self.splits = None if moves else load_splits(self.base.data, self.base.training.seed)

    def _study(self) -> optuna.Study:
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line a trial is printed here
        training = self.base.training
        journal = self.output / JOURNAL
        if training.overwrite:
            journal.unlink(missing_ok=True)
            shutil.rmtree(self.output / "trials", ignore_errors=True)
        if journal.exists() and not training.resume:
            raise ValueError(
                f"{journal} holds an earlier search: --training.resume true goes on with it, --training.overwrite true "
                "deletes it, or take another --training.output_dir"
            )
        self.output.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
        directions = ["maximize" if larger_is_better(name) else "minimize" for name in self.options.metrics]
        facts = json.loads(json.dumps(self._facts()))
        known = {each.study_name for each in optuna.get_all_study_summaries(storage)}
        if NAME not in known:
            study = optuna.create_study(study_name=NAME, storage=storage, directions=directions)
            study.set_user_attr("facts", facts)
        study = optuna.load_study(study_name=NAME, storage=storage, pruner=self._pruner(optuna))
        before = study.user_attrs["facts"]
        changed = [name for name in facts if before.get(name) != facts[name]]
        if changed:
            raise ValueError(
                f"{journal} is of a search with another {changed[0]} ({before.get(changed[0])}): put it back, or take "
                "another --training.output_dir"
            )
        # of the number of trials, or a resumed search would draw what it has drawn
        study.sampler = optuna.samplers.TPESampler(seed=training.seed + len(study.trials))
        self._take_up(study, optuna)
        return study

    def _facts(self) -> dict[str, Any]:
        matters = self.base.to_dict() | {"training": self.base.training.choices_that_matter()}
        return {"space": self.options.space, "metrics": self.options.metrics} | matters

    def _pruner(self, optuna: Any) -> optuna.pruners.BasePruner:
        pruned = self.options.prune and len(self.options.metrics) == 1
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP) if pruned else optuna.pruners.NopPruner()

    @staticmethod
    def _take_up(study: optuna.Study, optuna: Any) -> None:
        """A trial that was interrupted is run to its end by a new one, from its last checkpoint."""
        continued = {trial.user_attrs.get("continues") for trial in study.trials}
        for trial in study.trials:
            if trial.state.name == "RUNNING":  # it was killed
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            elif not _interrupted(trial):
                continue
            if trial.number not in continued:
                study.enqueue_trial(trial.params, user_attrs={"folder": folder_of(trial), "continues": trial.number})

    def run(self) -> None:
        """The trials that are left; a line for each.

        Raises:
            TrainingError: no trial came to its end; what the last said.
        """
        ended = [each for each in self.study.trials if each.state.is_finished() and not _interrupted(each)]
        self.study.optimize(
            self._try, n_trials=max(0, self.options.trials - len(ended)), catch=(TrainingError, ValueError),
            callbacks=[lambda study, trial: print(line(trial, self.options.metrics), flush=True)],
        )  # fmt: skip
        if all(trial.state.name != "COMPLETE" for trial in self.study.trials):
            reasons = [trial.user_attrs["failed"] for trial in self.study.trials if "failed" in trial.user_attrs]
            raise TrainingError(f"no trial came to its end; the last: {reasons[-1] if reasons else 'pruned'}")

    def _try(self, trial: optuna.Trial) -> tuple[float, ...]:
        trial.set_user_attr("folder", folder_of(trial))
        folder = self.output / "trials" / folder_of(trial)
        try:
            recipe = self.recipe_of(self._drawn(trial), folder)
            splits = self.splits or load_splits(recipe.data, recipe.training.seed)
            _, result = trained(recipe, splits, make_accelerator(recipe.training), partial(self._report, trial))
            values = self._values(result)
        except (TrainingError, ValueError) as error:
            trial.set_user_attr("failed", str(error))
            raise
        except _optuna().TrialPruned:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return values

    def _drawn(self, trial: optuna.Trial) -> dict[str, Any]:
        return {path: _suggested(trial, path, given) for path, given in self.space.items()}

    def recipe_of(self, drawn: Mapping[str, Any], folder: Path) -> Recipe:
        """The recipe with options by path, to be run in a folder."""
        values = copy.deepcopy(self.values)
        for path, value in drawn.items():
            put(values, path, value)
        training = {"output_dir": str(folder), "resume": True, "overwrite": False}
        values["training"] = (values.get("training") or {}) | training
        return Recipe.from_dict(values)

    def _report(self, trial: optuna.Trial, entry: Mapping[str, float]) -> None:
        value = entry.get(f"eval/{self.options.metrics[0]}")
        if len(self.options.metrics) == 1 and value is not None and entry["epoch"] > 0:
            trial.report(value, int(entry["epoch"]))
            if trial.should_prune():
                raise _optuna().TrialPruned(f"behind the others at epoch {entry['epoch']}")

    def _values(self, result: TrainingResult) -> tuple[float, ...]:
        """The metrics of the epoch whose weights are kept."""
        entries = [entry for entry in result.history if any(name.startswith("eval/") for name in entry)]
        step = result.steps if result.best_step is None else result.best_step
        chosen = next((entry for entry in entries if entry["step"] == step), entries[-1])
        missing = [name for name in self.options.metrics if f"eval/{name}" not in chosen]
        if missing:
            there = ", ".join(name.removeprefix("eval/") for name in chosen if name.startswith("eval/"))
            raise TrainingError(f"search.metrics: {missing[0]!r} is not measured on the validation images: {there} are")
        return tuple(chosen[f"eval/{name}"] for name in self.options.metrics)

    def best(self) -> list[optuna.trial.FrozenTrial]:
        """The best trial; of several metrics those that none is better than in all."""
        return [self.study.best_trial] if len(self.options.metrics) == 1 else self.study.best_trials

    def save(self) -> list[Path]:
        """Write ``trials.csv``, and of each of the best a YAML file that ``finetune`` takes; these files."""
        with atomic_file(self.output / "trials.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("trial", "state", *self.options.metrics, *self.space))
            for trial in self.study.trials:
                values = trial.values or [""] * len(self.options.metrics)
                drawn = [trial.params.get(path, "") for path in self.space]
                writer.writerow((trial.number, trial.state.name.lower(), *values, *drawn))
        written = []
        for old in self.output.glob("best*.yaml"):
            old.unlink()
        for trial in self.best():
            name = "best" if len(self.options.metrics) == 1 else f"best-{trial.number:04d}"
            chosen = {path: _meant(trial.params[path], given) for path, given in self.space.items()}
            recipe = self.recipe_of(chosen, self.output / name)
            recipe.training.resume = False
            with atomic_file(self.output / f"{name}.yaml") as path:
                path.write_text(recipe.to_yaml(), encoding="utf-8")
            written.append(self.output / f"{name}.yaml")
        return written


def _interrupted(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial ended for no reason of its own."""
    return trial.state.name == "FAIL" and "failed" not in trial.user_attrs


def folder_of(trial: Any) -> str:
    """Of a trial, under ``trials/``: its own, or that of the one it continues."""
    return trial.user_attrs.get("folder", f"trial-{trial.number:04d}")


def line(trial: optuna.trial.FrozenTrial, metrics: list[str]) -> str:
    """``trial 3: accuracy 0.812; training.learning_rate 0.00031``, or why it has no number."""
    drawn = ", ".join(
        f"{path} {value:.3g}" if isinstance(value, float) else f"{path} {value}" for path, value in trial.params.items()
    )
    if trial.values is not None and trial.state.name == "COMPLETE":
        said = ", ".join(f"{name} {value:.4g}" for name, value in zip(metrics, trial.values))
    else:
        said = trial.user_attrs.get("failed", trial.state.name.lower())
    return f"trial {trial.number}: {said}; {drawn}"


def put(values: dict[str, Any], path: str, value: Any) -> None:
    """Set the option of a path in nested plain values; a head or objective given by its name alone gets options."""
    *way, last = path.split(".")
    at: Any = values
    for part in way:
        at = _inside(at, part, path)
    at[last] = value


def _inside(at: dict[str, Any] | list, part: str, path: str) -> Any:
    if isinstance(at, list):
        named = [entry if isinstance(entry, str) else entry.get("name") for entry in at]
        if part not in named:
            raise ValueError(f"search.space: {path}: {part!r} is none of {', '.join(map(str, named)) or 'no entries'}")
        key: Any = named.index(part)
    else:
        key = part
        at.setdefault(key, {})
    if at[key] is None or isinstance(at[key], str):
        at[key] = {} if at[key] is None else {"name": at[key]}
    return at[key]


def _check_range(path: str, given: Any) -> None:
    section, _, rest = path.partition(".")
    kind = Recipe.sections().get(section)
    name = rest.partition(".")[0]
    if kind is None or name not in (each.name for each in fields(kind)):
        hint = suggestion(name, kind) if kind else f"sections are {', '.join(Recipe.sections())}"
        raise ValueError(f"space: {path!r} is no option of a recipe: {hint}")
    keys = set(given) if isinstance(given, dict) else set()
    if keys == {"choices"} and isinstance(given["choices"], list) and given["choices"]:
        return
    if {"low", "high"} <= keys <= {"low", "high", "log"}:
        low, high = given["low"], given["high"]
        numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high))
        if numbers and low < high and (low > 0 or not given.get("log")):
            return
    raise ValueError(
        f"space: {path}: {given!r} is neither {{choices: [a, b]}} nor {{low: 1, high: 10}} with numbers that rise, from "
        "above 0 with log: true"
    )


def _suggested(trial: optuna.Trial, path: str, given: dict[str, Any]) -> Any:
    if "choices" in given:
        return _meant(trial.suggest_categorical(path, [_label(each) for each in given["choices"]]), given)
    whole = isinstance(given["low"], int) and isinstance(given["high"], int)
    suggest = trial.suggest_int if whole else trial.suggest_float
    return suggest(path, given["low"], given["high"], log=bool(given.get("log")))


def _label(choice: Any) -> Any:
    """A choice as optuna keeps it: a plain value, or lists and mappings as text."""
    return json.dumps(choice) if isinstance(choice, (list, dict)) else choice


def _meant(label: Any, given: dict[str, Any]) -> Any:
    """The choice of a label; a number as it is."""
    return next((each for each in given.get("choices", ()) if _label(each) == label), label)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("a search is made by optuna: pip install attention-refine[search]") from error
    return optuna
