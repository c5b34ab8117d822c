"""The demo: a plain network and one with an attention branch, on the embedded dataset, side by side in one report."""

from __future__ import annotations

from pathlib import Path

from .recipe import Recipe, Run, load_splits, report, run, shipped

MODELS = {"plain": "plain_shapes", "abn": "abn_shapes"}


def demo(output: str | Path = "attention-refine-demo", seed: int = 0, quick: bool = False) -> Path:
    """Train both, judge both on images whose cue lies, and write ``report.html`` and the checkpoints.

    Args:
        output: folder; ``plain/`` and ``abn/`` in it hold the two runs.
        seed: of the order of the images, the augmentation and the fresh weights.
        quick: a few steps and images, to see that everything works; the numbers mean nothing then.

    Returns:
        The path of the report.
    """
    output = Path(output)
    runs: dict[str, Run] = {}
    splits = None
    for name, config in MODELS.items():
        training = {"output_dir": str(output / name), "seed": seed, "overwrite": True}
        overrides = {"training": training}
        if quick:
            training["max_steps"] = 4
            overrides["evaluation"] = {"perturbation_images": 4, "perturbation_steps": 3}
        recipe = Recipe.load(shipped(config), overrides)
        splits = splits or load_splits(recipe.data, seed)  # drawn once: both runs have the same data section
        runs[name] = run(recipe, splits)
        print(f"{name}\n{runs[name].evaluation}\n")
    return report(runs, output / "report.html", title="Demo: does the map find the object when the cue lies?")
