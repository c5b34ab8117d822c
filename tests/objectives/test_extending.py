"""docs/extending.md as it is written: the objective there is the library's own energy loss."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from cases import BY_NAME

import attention_refine as ar
from attention_refine.objectives._base import objectives

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
LABELS = torch.tensor([1, 4, 0])


@pytest.fixture(scope="module")
def written():
    """The page's code, run; its name is given back afterwards."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[-1]
    module = sys.modules["extending"] = types.ModuleType("extending")  # dataclasses look their module up
    exec(compile(code, str(PAGE), "exec"), vars(module))
    lines = [line for line in code[code.index("@ar.register_objective") :].splitlines() if line.strip()]
    assert len(lines) <= 20
    yield module.Energy
    del objectives.entries["energy"], sys.modules["extending"]


@pytest.mark.parametrize(
    "name, head", [("resnet18", None), ("resnet18", "abn"), ("convnext", None), ("vit-token", "abn")]
)
def test_the_objective_of_the_page_is_the_energy_loss(written, name, head):
    mask = torch.zeros(3, 1, 64, 64, dtype=torch.uint8)
    mask[:, :, 5:40, 10:50] = 1
    mask[1] = 255
    losses = []
    for objective in (written(), ar.MapSupervision(norm="energy")):
        model = BY_NAME[name].wrap(head and ar.AttentionBranch(map_init="normal", fade_in_steps=0))
        torch.manual_seed(0)
        model.add_objective(objective)
        output = model(BY_NAME[name].images(), labels=LABELS, mask=mask)
        losses.append(output.losses[objective.name])
    torch.testing.assert_close(*losses)
    assert losses[0] > 0


def test_it_is_one_like_the_others(written, tmp_path):
    model = BY_NAME["resnet18"].wrap(None, objectives=["energy"])
    model.save_pretrained(tmp_path)
    assert type(ar.load(tmp_path).objectives["energy"]) is written
    assert "energy" in ar.list_objectives()
