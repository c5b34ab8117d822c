"""Paths of a person's disk do not leave it."""

from __future__ import annotations

import pytest

from attention_refine.hub import Card
from attention_refine.hub.places import without_places


@pytest.mark.parametrize(
    "given, told",
    [
        ("/home/ann/clinic/eyes", "eyes"),
        ("~/clinic/eyes", "eyes"),
        ("../clinic/eyes", "eyes"),
        ("./eyes", "eyes"),
        ("clinic/patients/eyes", "eyes"),
        (r"C:\Users\ann\eyes", "eyes"),
        (r"clinic\eyes", "eyes"),
        ("user/eyes", "user/eyes"),
        ("shapes:train", "shapes:train"),
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("", ""),
        (None, None),
        (0.5, 0.5),
    ],
)
def test_a_path_is_told_by_its_last_name(given, told):
    assert without_places(given) == told
    card = Card(dataset=given if isinstance(given, str) else None, config={"data": {"source": given, "more": [given]}})
    assert card.config == {"data": {"source": told, "more": [told]}}
    assert card.dataset == (told if isinstance(given, str) else None)


def test_a_relative_path_that_is_there_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "clinic" / "eyes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert without_places("clinic/eyes") == "eyes" and Card(dataset="clinic/eyes").dataset == "eyes"
