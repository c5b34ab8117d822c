"""Where a run, or an evaluation of its models, left its results."""

from __future__ import annotations

from pathlib import Path

FILE = "evaluation.json"
LAST = "evaluation_last"  # of the last model, beside the run's own results, which are of the best


def evaluation_files(path: str | Path) -> dict[str, Path]:
    """The results at a path: ``{"": file}``, or ``{"best": file, "last": file}`` where a run's two models differ.

    Args:
        path: an ``evaluation.json``; a folder with one; a run's folder, or its ``best/`` or ``last/``; or a folder that
            holds evaluations of both.

    Raises:
        ValueError: nothing there, saying what would put it there.
    """
    path = Path(path)
    if path.is_file():
        return {"": path}
    own, last = path / FILE, path / LAST / FILE
    if own.is_file():
        return {"best": own, "last": last} if last.is_file() else {"": own}
    both = {name: path / name / FILE for name in ("best", "last")}
    there = {name: file for name, file in both.items() if file.is_file()}
    if there:
        return there if len(there) > 1 else {"": next(iter(there.values()))}
    above = path.parent / FILE
    if path.name == "last" and (path.parent / LAST / FILE).is_file():
        return {"": path.parent / LAST / FILE}
    if above.is_file() and (path.name == "best" or (path.name == "last" and not (path.parent / "best").is_dir())):
        return {"": above}
    if not path.exists():
        raise ValueError(f"{path} does not exist: give an {FILE}, or the folder of a run or an evaluation")
    inner = sorted(file.parent for file in path.glob(f"*/{FILE}")) if path.is_dir() else []
    if inner:
        raise ValueError(f"{path} holds evaluations of models: name one, {' or '.join(map(str, inner[:3]))}")
    raise ValueError(
        f"{path} holds no {FILE}: judge its model with attention-refine evaluate {path} --data.source DATA, and compare "
        "what that writes"
    )
