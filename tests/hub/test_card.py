"""The card: what is in it, that nothing in it acts, and that what it says to paste runs."""

from __future__ import annotations

import contextlib
import io
import re

import numpy as np
import pytest
import yaml
from cases import BY_NAME
from PIL import Image
from test_pushing import files

from attention_refine.hub import Card
from attention_refine.hub.card import base_model_of, markdown

NAME = "user/model"


@pytest.fixture(scope="module")
def photos():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (70, 90, 3), dtype=np.uint8)) for _ in range(3)]


def written(model, card, folder):
    card.write(model, NAME, folder)
    text = (folder / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_what_is_on_a_card(hub, model, evaluation, photos):
    card = Card(evaluation=evaluation, images=photos, dataset="user/cats", split="test", licence="apache-2.0",
                command="attention-refine finetune abn_shapes", config={"training": {"epochs": 3}},
                description="Cats and dogs.")  # fmt: skip
    model.push_to_hub(NAME, card=card)
    there = files(hub)
    assert {"README.md", "maps.png", ".eval_results/attention_refine.yaml"} <= set(there)
    _, head, body = there["README.md"].decode().split("---\n", 2)
    data = yaml.safe_load(head)
    assert (
        data["library_name"] == "attention_refine"
        and data["license"] == "apache-2.0"
        and data["datasets"] == ["user/cats"]
    )
    assert data["pipeline_tag"] == "image-classification" and "abn" in data["tags"]
    results = {result["type"]: result for result in data["model-index"][0]["results"][0]["metrics"]}
    cell = evaluation.summary["classification"]["accuracy"]
    assert results["accuracy"]["value"] == cell["value"]
    assert results["accuracy"]["args"] == {key: cell[key] for key in ("low", "high", "level", "count")}
    assert f"| {cell['value']:.3f} | {cell['low']:.3f} to {cell['high']:.3f} | 6 |" in body
    assert "model/insertion" in results
    for part in (
        "attention-refine finetune abn_shapes",
        "epochs: 3",
        "Cats and dogs",
        "Bengal cat",
        "maps.png",
        "Intended use and limits",
        "head",
    ):
        assert part in body, part
    picture = Image.open(io.BytesIO(there["maps.png"]))
    assert picture.size == (3 * 224, 2 * 224)
    entries = yaml.safe_load(there[".eval_results/attention_refine.yaml"])
    assert {"id": "user/cats", "task_id": "accuracy"} in [entry["dataset"] for entry in entries]


def test_the_hub_client_reads_the_card(hub, model, evaluation):
    from huggingface_hub import ModelCard

    model.push_to_hub(NAME, card=Card(evaluation=evaluation, dataset="cats"))
    card = ModelCard.load(NAME)
    assert {result.metric_type for result in card.data.eval_results} >= {"accuracy"} and card.data.model_name == "model"


def test_the_snippet_runs_when_pasted(hub, model, photos, tmp_path, monkeypatch):
    model.push_to_hub(NAME)
    body = files(hub)["README.md"].decode()
    (code,) = re.findall(r"```python\n(.*?)```", body, re.S)
    assert len(code.strip().splitlines()) == 3
    monkeypatch.chdir(tmp_path)
    photos[0].save("photo.jpg")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "README.md", "exec"), {})
    assert said.getvalue().strip() in model.labels


HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))", "a | b | c",
           "# heading\n\n---\nlicense: evil\n---", "`code`", "{{ 7 * 7 }}{% for x in y %}"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_is_shown_not_run(text, tmp_path):
    model = BY_NAME["hf-resnet"].wrap(labels=[text, "b", "c", "d", "e"])
    card = Card(
        dataset=text, description=text, intended_use=text, limits=text, command=f"x\n```\n{text}", config={"a": text}
    )
    data, body = written(model, card, tmp_path)
    assert "license" not in data and data["model_name" if "model_name" in data else "library_name"]
    outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", body)  # nothing in a code block is run
    assert "<script" not in outside and "<img" not in outside and "](javascript" not in outside and "49" not in outside
    table = [line for line in outside.splitlines() if line.startswith("| classes")]
    assert len(table) == 1 and len(re.findall(r"(?<!\\)\|", table[0])) == 3


def test_markdown_is_escaped_on_one_line():
    assert markdown("a <b>\n*c* | `d` [e](f)") == r"a &lt;b&gt; \*c\* \| \`d\` \[e\]\(f\)"


def test_licence_and_base_of_the_weights_are_carried_over(hub, tmp_path):
    model = BY_NAME["hf-resnet"].wrap()
    spec = model.backbone.spec
    assert base_model_of(model) is None
    object.__setattr__(spec, "origin", "microsoft/resnet-50")
    hub.make("microsoft/resnet-50", {"README.md": b"---\nlicense: apache-2.0\n---\n"})
    model.push_to_hub(NAME)
    head = yaml.safe_load(files(hub)["README.md"].decode().split("---\n")[1])
    assert head["base_model"] == "microsoft/resnet-50" and head["license"] == "apache-2.0"
    object.__setattr__(spec, "origin", "somebody/unknown")
    model.push_to_hub("user/other")
    head = yaml.safe_load(files(hub, "user/other")["README.md"].decode().split("---\n")[1])
    assert head["base_model"] == "somebody/unknown" and "license" not in head
    assert b"not known; check it" in files(hub, "user/other")["README.md"]


def test_a_bare_card_says_what_it_does_not_know(model, tmp_path):
    data, body = written(model, Card(), tmp_path)
    assert "## Evaluation" not in body and "## Training" not in body and "maps.png" not in body and "not stated" in body
    assert "model-index" not in data and {path.name for path in tmp_path.iterdir()} == {"README.md"}
