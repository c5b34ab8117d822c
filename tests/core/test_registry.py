"""What a person sees of the options: signatures, docstrings, completion, and outputs that fit on a line."""

from __future__ import annotations

import inspect
import os
import pydoc
import subprocess
import sys
import types
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
from cases import BY_NAME
from torch import nn

import attention_refine as ar
from attention_refine.heads._base import heads
from attention_refine.objectives._base import objectives

CLASSES = {**heads.entries, **objectives.entries}


@pytest.mark.parametrize("name", CLASSES)
def test_every_head_and_objective_shows_its_options(name):
    cls = CLASSES[name]
    shown = inspect.signature(cls).parameters
    for field in fields(cls.config_class):
        assert field.name in shown, f"{name} hides {field.name}"
        assert shown[field.name].kind is not inspect.Parameter.VAR_KEYWORD
        assert shown[field.name].default is not inspect.Parameter.empty
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in shown.values())
    page = pydoc.render_doc(cls, renderer=pydoc.plaintext)
    assert f"Options of {cls.config_class.__name__}:" in page
    for field in fields(cls.config_class):
        assert field.name in cls.__doc__, f"{name} says nothing of {field.name}"
    module = ar.heads if issubclass(cls, ar.Head) else ar.objectives
    assert getattr(module, cls.config_class.__name__) is cls.config_class
    assert {cls.__name__, cls.config_class.__name__} <= set(module.__all__)


def test_signatures_are_written_as_a_person_would():
    said = str(inspect.signature(ar.AttentionBranch))
    assert said.startswith("(*, site: str = 'auto', mechanism: str | None = None, branch: str = 'auto'")
    teacher = inspect.signature(ar.AttentionConsistency).parameters["teacher"]
    assert teacher.kind is teacher.POSITIONAL_OR_KEYWORD  # its own, not the config's


def test_a_class_of_ones_own_shows_its_own():
    @dataclass(frozen=True)
    class GateConfig:
        width: int = 3

    class Gate(ar.Head):
        config_class = GateConfig

    class Fixed(Gate):
        def __init__(self, size: int = 1):
            super().__init__(width=size)

    assert str(inspect.signature(Gate)) == "(*, width: int = 3)"
    assert list(inspect.signature(Fixed).parameters) == ["size"]
    assert Fixed(4).config.width == 4 and Gate(width=2).config.width == 2


@pytest.mark.parametrize("module", [ar.maps, ar.metrics], ids=["maps", "metrics"])
def test_a_module_lists_what_is_for_people(module):
    listed = dir(module)
    assert set(listed) == set(module.__all__) and "annotations" not in listed
    assert not any(isinstance(getattr(module, name), types.ModuleType) for name in listed)


def test_an_output_is_one_line_of_shapes():
    model = BY_NAME["resnet18"].wrap()
    images = BY_NAME["resnet18"].images()
    said = repr(model(images))
    assert said == "RefinedOutput(logits (3, 5), maps (3, 1, 4, 4))"
    output = model(images, labels=torch.tensor([0, 1, 2]))
    said = str(output)
    assert f"loss {output.loss.item():.4g}, " in said and f"losses {{task {output.losses['task'].item():.4g}, " in said
    assert "\n" not in said and len(said) < 200
    assert output[0] is output.loss, "as Trainer takes it"
    assert isinstance(model.head, nn.Module) and "maps" in output  # still a ModelOutput


def test_a_process_that_only_loads_finds_the_model():
    probe = "from attention_refine.refined import models; print(models.named('attention_refine').__name__)"
    environment = {**os.environ, "PYTHONPATH": str(Path(ar.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment)
    assert run.stdout.split() == ["RefinedModel"], run.stderr
