"""Spawrious (Lynch et al. 2023): four dogs in six places, drawn by a diffusion model, of which each challenge takes a part.

A folder ``0/desert/bulldog`` holds the images of a dog in a place, in two draws (``0`` and ``1``). The splits are those of
the six challenges, ``o2o_easy_train``, ``o2o_easy_test`` to ``m2m_hard_test``: in ``o2o`` each dog has one place in
training, but for some in a place of all dogs (3 and 13 of 100 in its two environments), in ``m2m`` two dogs share two
places, and at test they have changed. Both environments of training are read as one.
"""

from __future__ import annotations

from pathlib import Path

from attention_refine.data.published._files import folders_in, has, images_in
from attention_refine.data.published._layout import PublishedSet, Rows

DOGS = ["bulldog", "corgi", "dachshund", "labrador"]
ORDER = ["bulldog", "dachshund", "labrador", "corgi"]  # in which the places of a challenge are given
IMAGES = 3168  # of a dog in a place, in one draw
ONE = {  # places in training, places at test, the place of all dogs
    "o2o_easy": ("desert jungle dirt snow", "dirt snow desert jungle", "beach"),
    "o2o_medium": ("mountain beach dirt jungle", "jungle dirt beach snow", "desert"),
    "o2o_hard": ("jungle mountain snow desert", "mountain snow desert jungle", "beach"),
}
MANY = {
    "m2m_easy": ("desert mountain dirt jungle", "dirt jungle mountain desert"),
    "m2m_medium": ("beach snow mountain desert", "desert mountain beach snow"),
    "m2m_hard": ("dirt jungle snow beach", "snow beach dirt jungle"),
}
PLACES = ["beach", "desert", "dirt", "jungle", "mountain", "snow"]
PAIR = [1, 0, 3, 2]  # the dog whose place a dog has in the other environment
Part = tuple[str, str, str, int | None]  # draw, place, dog, how many of its images, in the order of their names


def _parts(challenge: str, test: bool) -> list[Part]:
    if challenge in ONE:
        train, at_test, everywhere = ONE[challenge]
        if test:
            return [(draw, place, dog, None) for draw in "01" for dog, place in zip(ORDER, at_test.split())]
        counts = {"0": int(0.97 * IMAGES), "1": int(0.87 * IMAGES)}
        own: list[Part] = [
            (draw, place, dog, counts[draw]) for draw in "01" for dog, place in zip(ORDER, train.split())
        ]
        return own + [(draw, everywhere, dog, IMAGES - counts[draw]) for draw in "01" for dog in ORDER]
    places = MANY[challenge][test].split()
    both = [places, [places[other] for other in PAIR]]
    return [("0", place, dog, None if test else IMAGES) for group in both for dog, place in zip(ORDER, group)]


def _of(split: str) -> list[Part]:
    challenge, _, part = split.rpartition("_")
    return _parts(challenge, part == "test")


def _splits(root: Path) -> list[str]:
    """Those of the challenges whose folders are all there: each can be had by itself."""
    places = {(draw, place) for draw in "01" if has(root, draw) for place in folders_in(root / draw)}
    there = {(draw, place, dog) for draw, place in places for dog in folders_in(root / draw / place)}
    whole = [
        challenge
        for challenge in (*ONE, *MANY)
        if {part[:3] for test in (False, True) for part in _parts(challenge, test)} <= there
    ]
    return [f"{challenge}_{part}" for challenge in whole for part in ("train", "test")]


def _known(root: Path) -> bool:
    return any(has(root, f"0/{place}/{DOGS[0]}", f"0/{place}/{DOGS[1]}") for place in PLACES)


def _read(root: Path, split: str) -> Rows:
    rows = []
    for draw, place, dog, most in _of(split):
        for path in images_in(root / draw / place / dog)[:most]:
            rows.append({"_at": path, "_image": path, "label": dog, "place": place, "group": f"{dog}/{place}"})
    return rows, {}


SET = PublishedSet(
    name="Spawrious",
    files="`0/desert/bulldog/`, ..., `1/desert/bulldog/`, ...",
    known=_known,
    splits=_splits,
    classes=lambda root, split: DOGS,
    read=_read,
    within=("spawrious224",),
    holds="groups dog/place",
)
