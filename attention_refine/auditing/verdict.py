"""An audit in a sentence, and what it could not look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention_refine.auditing.record import Audit


def verdict(audit: Audit) -> str:
    """What the model looks at, with the numbers that say so.

    It leans on the cue where another class's cue lowers accuracy, and on the place where accuracy is lower on a place that
    the model takes for another class, or on a place of any class than on one of the object's own; each beyond its 95 %
    interval. It is uneven where the worst group's interval lies below the best one's.
    """
    leans = [said for said in (_cue(audit), _place(audit), _groups(audit)) if said is not None]  # (what, the evidence)
    what = [name for name, _ in leans if name]
    evidence = [text for _, text in leans]
    energy = _energy(audit)
    if what:
        return f"This model leans on {' and on '.join(what)}: {_joined([*evidence, *energy])}."
    if audit.scenes or audit.energy:
        start = "This model looks at the object as far as could be seen" if "object" in audit.energy else (
            "This model does not lean on the cue as far as could be seen"
        )  # fmt: skip
        return f"{start}: {_joined([*evidence, *energy, *_steady(audit)])}."
    if evidence:
        return f"Where this model looks could not be held against an object or a cue, but it is uneven: {_joined(evidence)}."
    accuracy = next(iter(audit.evaluation.summary["classification"].values()))
    return (
        f"What this model looks at could not be found out from this data: {_percent(accuracy['value'])} of its "
        "predictions are right, and nothing says where the object is."
    )


def not_looked_at(audit: Audit) -> list[str]:
    """What the data did not allow, and what would: sentences."""
    said, total = [], len(audit.samples)
    objects, cues = (sum(s["energy"][part] is not None for s in audit.samples) for part in ("object", "cue"))
    if not objects:
        said.append(
            "Not looked at: how much of the map lies on the object, and the object on other places. No image has a mask "
            "or box with an object and some background in view; a few (mask_file_name or bbox) are enough."
        )
    elif objects < total:
        said.append(f"Looked at on {objects} of {total} images only: the object, since the others have no mask or box.")
    if objects and audit.settings["boxes"]:
        said.append("The objects are known as boxes, so a rim of their own place moves along with them.")
    if audit.settings.get("made"):
        said.append(
            f"Of {audit.settings['made']} of {total} images a model made the masks, so their objects are known roughly."
        )
    if not cues:
        said.append("Not looked at: a cue. No image says what should not be looked at (cue_bbox or cue_mask).")
    elif cues < total:
        said.append(f"Looked at on {cues} of {total} images only: the cue.")
    if cues and "cue_moved" not in audit.scenes:
        said.append("Not looked at: another class's cue put in, since no two classes have one.")
    if objects and "mixed_same" not in audit.scenes:
        said.append("Not looked at: the object on other places, since no other image of a class can lend one.")
    if "groups" not in audit.evaluation.summary:
        said.append("Not looked at: groups. The data has no column 'group', and no other was named with groups=.")
    return said


def _cue(audit: Audit) -> tuple[str, str] | None:
    found = audit.scenes.get("cue_moved") or audit.scenes.get("cue_removed")
    if found is None or found["difference"]["high"] >= 0:
        return None
    done = "with another class's cue put in" if "cue_moved" in audit.scenes else "with the cue removed"
    return "the cue", f"{done} accuracy falls {_from_to(found)}"


def _place(audit: Audit) -> tuple[str, str] | None:
    gap, believed = audit.gaps.get("place"), audit.gaps.get("believed")
    if believed is not None and believed["low"] is not None and believed["low"] > 0:
        return "the place", (
            f"on a place that it takes for the object's class {_percent(believed['agrees'])} of the objects are "
            f"recognised, on one that it takes for another class {_percent(believed['lies'])}"
        )
    if gap is not None and gap["low"] > 0:
        same, rand = (audit.scenes[name]["accuracy"]["value"] for name in ("mixed_same", "mixed_rand"))
        return "the place", (
            f"on a place of its own class {_percent(same)} of the objects are recognised, on any class's "
            f"{_percent(rand)}"
        )
    return None


def _groups(audit: Audit) -> tuple[str, str] | None:
    for column, found in audit.evaluation.summary.get("groups", {}).items():
        cells = found["accuracy"]
        if not cells:
            continue
        worst, best = cells[found["worst_group"]], cells[found["best_group"]]
        if worst["high"] < best["low"]:
            return "", (
                f"accuracy goes from {_percent(best['value'])} where {column} is {found['best_group']} down to "
                f"{_percent(worst['value'])} where it is {found['worst_group']}"
            )
    return None


def _energy(audit: Audit) -> list[str]:
    shares = [
        f"{_percent(cell['value'])} on the {part} ({_percent(audit.area[part]['value'])} of the image)"
        for part, cell in audit.energy.items()
        if part != "rest"
    ]
    return [f"of its map lies {' and '.join(shares)}"] if shares else []


def _steady(audit: Audit) -> list[str]:
    said = []
    for scene, where in (("mixed_rand", "on another place"), ("cue_moved", "with another class's cue")):
        if scene in audit.scenes:
            said.append(f"{where} accuracy goes {_from_to(audit.scenes[scene])}")
    return said


def _from_to(found: Mapping[str, Any]) -> str:
    return f"from {_percent(found['original']['value'])} to {_percent(found['accuracy']['value'])}"


def _joined(parts: list[str]) -> str:
    return "; ".join(parts)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
