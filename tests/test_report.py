"""The report: one file, nothing fetched, no label taken for HTML, and the numbers of the evaluations in it."""

from __future__ import annotations

import base64
import html.parser
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from attention_refine import maps, shapes, wrap
from attention_refine.data import prepare
from attention_refine.evaluation import compare, evaluate
from attention_refine.overlay import outline, overlay
from attention_refine.report import write_report
from attention_refine.report.figures import chart, perturbation_charts, training_charts
from attention_refine.report.gallery import CUE_LINE, galleries, gallery

EVIL = "<script>alert('x')</script>"
CLASSES = [EVIL, *shapes.CLASSES[1:]]


class Page(html.parser.HTMLParser):
    """Tags, their attributes and the text of a page; refuses tags that are not closed in order."""

    VOID = {"meta", "img", "br", "link", "input"}

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def models():
    made = {}
    for seed, (name, head) in enumerate((("plain", None), (f"abn {EVIL}", "abn"))):
        torch.manual_seed(seed)
        net = timm.create_model("test_resnet", num_classes=6)
        made[name] = wrap(
            net, head=head, labels=CLASSES, preprocessing={"input_size": [3, 64, 64], "crop_pct": 1.0}
        ).eval()
    return made


@pytest.fixture(scope="module")
def data(models):
    raw = shapes.make("test", 8, size=64)
    names = raw.features["label"]
    names = type(names)(names=CLASSES)
    return raw.cast_column("label", names)


@pytest.fixture(scope="module")
def evaluations(models, data):
    options = {"perturbation_images": 3, "perturbation_steps": 4, "progress": False, "maps": ["model", "centre"]}
    return {name: evaluate(model, data, **options) for name, model in models.items()}


@pytest.fixture(scope="module")
def pictures(models, data, evaluations):
    return galleries(models, data, evaluations, count=2)


HISTORY = [
    {"epoch": 1, "step": 5, "learning_rate": 1e-3, "train/loss": 1.7, "eval/accuracy": 0.2},
    {"epoch": 2, "step": 10, "learning_rate": 1e-4, "train/loss": float("nan"), "eval/accuracy": 0.3},
]


@pytest.fixture(scope="module")
def text(tmp_path_factory, evaluations, pictures):
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    histories = {name: HISTORY for name in evaluations}
    written = write_report(
        path, evaluations, histories=histories, galleries=pictures, title=f"On {EVIL}", config={"a": EVIL}
    )
    assert written == path
    return path.read_text(encoding="utf-8")


def test_nothing_is_fetched_and_nothing_runs(text):
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base"}
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href", "srcset", "action", "data"):
                assert value.startswith(("data:image/", "#")), (tag, key, value[:60])
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_labels_and_names_are_text(text):
    assert "<script" not in text and "&lt;script&gt;" in text
    assert EVIL in Page(text).text.replace("\n", " ")


def test_pictures_decode_and_are_all_there(text, pictures):
    sources = [attributes["src"] for tag, attributes in Page(text).tags if tag == "img"]
    rows = sum(map(len, pictures.values()))
    assert len(sources) == 1 + 3 * rows  # the legend; image and two maps a row
    for source in sources:
        image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        image.load()
    assert image.size == (64, 64)


def test_numbers_of_the_table_are_those_of_the_evaluations(text, evaluations):
    words = Page(text).text.replace("−", "-")
    for evaluation in evaluations.values():
        cells = [*evaluation.summary["classification"].values(), *evaluation.summary["maps"]["model"].values()]
        cells += evaluation.summary["maps"]["centre"].values()
        for cell in cells:
            assert f"{cell['value']:.3f} {cell['low']:.3f} to {cell['high']:.3f}" in words
    for difference in compare(evaluations).differences:
        assert f"{difference.difference:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]" in words


def test_the_best_is_bold(text, evaluations):
    first, second = (e.summary["maps"]["model"]["mask_correlation"]["value"] for e in evaluations.values())
    row = re.search(r"<th scope=\"row\">Mask correlation.*?</tr>", text, re.S)[0]
    bold = re.findall(r'<span class="best">([^<]*)</span>', row)
    assert [float(value.replace("−", "-")) for value in bold] == [round(max(first, second), 3)]


def test_charts_take_the_pages_colour(text):
    figures = re.findall(r"<svg .*?</svg>", text, re.S)
    assert len(figures) == 5  # insertion, deletion, loss, accuracy, learning rate
    for figure in figures:
        assert "currentColor" in figure and "#010203" not in figure and "#000000" not in figure
    together = "".join(figures)
    identifiers = re.findall(r'id="(m[0-9a-f]{10}|p[0-9a-f]{10})"', together)
    assert len(identifiers) == len(set(identifiers))  # clip paths of one chart must not cut another


def test_a_curve_with_an_interval_has_a_band_round_its_line():
    x, y = [0.0, 0.5, 1.0], [0.1, 0.4, 0.8]
    plain = chart({"a": (x, y)}, "t", "x")
    banded = chart({"a": (x, y, [0.0, 0.3, 0.7], [0.2, 0.5, 0.9])}, "t", "x")
    assert "FillBetween" in banded and "FillBetween" not in plain and "fill-opacity: 0.18" in banded


def test_the_curves_of_a_report_have_their_intervals(text, evaluations):
    assert text.count("FillBetween") >= 2 * len(evaluations)  # insertion and deletion
    assert "Shaded: the bootstrap interval" in text
    older = {"insertion": {"fractions": [0.0, 1.0], "mean": [0.1, 0.9], "count": 3}}
    without = replace(evaluations["plain"], curves={"model": older})
    (svg,) = perturbation_charts({"plain": without})
    assert "share of pixels shown" in svg and "FillBetween" not in svg


def test_evaluations_of_other_images_stand_side_by_side_uncompared(tmp_path, models, data, evaluations):
    other = evaluate(models["plain"], data.select(range(5)), measures=["accuracy"], progress=False)
    page = Page(write_report(tmp_path / "r.html", {"a": evaluations["plain"], "b": other}).read_text())
    assert "The models are not compared: 'b' and 'a' have 5 and 8 images" in page.text


def test_a_report_of_training_alone_and_of_one_model(tmp_path, evaluations):
    page = Page(write_report(tmp_path / "a.html", {}, histories={"run": HISTORY}).read_text())
    assert "Training" in page.text and "Results" not in page.text
    counted = [{**entry, "images": 24, "eval/images": 6, "eval/mask_correlation_images": 6} for entry in HISTORY]
    assert training_charts({"run": counted}) == training_charts({"run": HISTORY})  # a count is no curve
    page = Page(write_report(tmp_path / "b.html", {"one": evaluations["plain"]}).read_text())
    assert "Mask correlation" in page.text and "difference" not in page.text


def test_gallery_shows_the_images_maps_and_predictions(models, data, evaluations):
    model = models["plain"]
    prepared = prepare(data, model.preprocessing)
    (row,) = gallery({"plain": model}, data, [3], evaluations, "iou")
    sample = evaluations["plain"].samples[3]
    assert row.label == CLASSES[sample["label"]] and row.file == "row 3"
    assert row.cells[0].prediction == CLASSES[sample["prediction"]]
    assert row.cells[0].correct == sample["correct"]
    named = replace(evaluations["plain"], samples=[{**s, "file": "a/b.png"} for s in evaluations["plain"].samples])
    assert gallery({"plain": model}, data, [3], {"plain": named})[0].file == "row 3, b.png"
    assert row.cells[0].note == f"IoU with the object {sample['model/iou']:.2f}"
    raw = data[3]["image"].convert("RGB")
    lined = outline(outline(raw, prepared[3]["mask"]), prepared[3]["cue"], colour=CUE_LINE)
    assert row.picture.tobytes() == lined.tobytes()
    made = maps.grad_cam(model, prepared[3]["pixel_values"][None])[0]
    assert row.cells[0].picture.tobytes() == overlay(raw.convert("L"), made, alpha=0.55).tobytes()


def test_galleries_choose_best_worst_and_most_changed(models, data, evaluations, pictures):
    first, last = evaluations
    values = evaluations[last].values("model/mask_correlation")
    gain = values - evaluations[first].values("model/mask_correlation")

    def rows(start):
        return next([int(r.file.split()[1]) for r in shown] for title, shown in pictures.items() if start in title)

    assert rows("Images spread") == [0, 4]
    assert rows("best maps") == values.sort(descending=True).indices[:2].tolist()
    assert rows("worst maps") == values.sort().indices[:2].tolist()
    assert rows("largest gains") == gain.sort(descending=True).indices[:2].tolist()
    assert rows("largest losses") == gain.sort().indices[:2].tolist()
    with pytest.raises(ValueError, match="without streaming"):
        gallery(models, data.to_iterable_dataset(), [0])


def test_strips_show_the_iterations_of_darc_and_of_nothing_else(models, data, tmp_path):
    """Image, first map, and three pictures an iteration; what is not hidden is the image's own."""
    from attention_refine import DARC
    from attention_refine.overlay import denormalize
    from attention_refine.report import strips
    from attention_refine.report.strips import strip

    plain = dict(models)
    assert strips(plain, data) == {}
    text = write_report(tmp_path / "plain.html", {}, strips=strips(plain, data)).read_text()
    assert "Predicting what is hidden" not in text
    torch.manual_seed(0)
    refined = wrap(
        timm.create_model("test_resnet", num_classes=6), "abn", [DARC(iterations=2, width=16, min_cells=1.0)],
        labels=CLASSES, preprocessing={"input_size": [3, 64, 64]},
    )  # fmt: skip
    made = strips({**plain, EVIL: refined}, data, count=2)
    assert list(made) == [EVIL] and [len(frames) for frames in made[EVIL]] == [8, 8]
    captions = [frame.caption for frame in made[EVIL][0]]
    assert captions[:4] == ["image", "map before", "hidden 1", captions[3]] and captions[-1] == "map 2"
    page = Page(write_report(tmp_path / "strips.html", {}, strips=made).read_text())
    assert "Predicting what is hidden" in page.text and EVIL in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 16 and not any(tag == "script" for tag, _ in page.tags)

    pixels = prepare(data, refined.preprocessing, class_names=CLASSES)[0]["pixel_values"]
    frames = strip(refined.eval(), pixels, refined.preprocessing)
    hidden = refined.objectives["darc"].occlusion.hide(pixels[None], turn=(0, 0))[0, 0].numpy()
    image, filled = (np.array(each.picture) for each in (frames[0], frames[3]))
    assert (image == filled)[~hidden].all() and not (image == filled)[hidden].all()
    assert frames[0].picture.tobytes() == denormalize(pixels, refined.preprocessing).tobytes()


def test_verdict_and_pictures_come_first(text, evaluations):
    page = Page(text[: text.index("<h2>")] + "</main></body></html>")
    names = list(evaluations)
    assert "Results" not in page.text
    assert f"{names[1]} against {names[0]}: " in page.text.replace("&lt;", "<") and "accuracy" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 1 + 2 * 3, "two images, two maps of each, the scale"
    assert text.index("<h2>Results</h2>") > text.index("<img")


def test_what_a_verdict_says(evaluations):
    from attention_refine.evaluation import Comparison, Difference
    from attention_refine.report.verdict import verdict

    def difference(measure, value, p, map=None):
        return Difference("new", map, measure, value, value - 0.02, value + 0.02, p, p, 100, 0)

    made = [
        difference("accuracy", 0.01, 0.4), difference("worst_group_accuracy", -0.05, None),
        difference("mask_correlation", 0.2, 0.001, "model"), difference("energy_on_cue", 0.1, 0.01, "model"),
    ]  # fmt: skip
    (said,) = verdict(dict.fromkeys(("old", "new")), Comparison("old", made))
    assert said == (
        "new against old: no sure difference in accuracy (+0.010, −0.010 to +0.030); accuracy of the worst group worse "
        "(−0.050, −0.070 to −0.030); mask correlation better (+0.200, +0.180 to +0.220); energy on the cue worse "
        "(+0.100, +0.080 to +0.120)."
    )
    name, evaluation = next(iter(evaluations.items()))
    (alone,) = verdict({name: evaluation}, None)
    cell = evaluation.summary["classification"]["accuracy"]
    assert alone.startswith(f"{name}: accuracy {cell['value']:.3f} ({cell['low']:.3f} to {cell['high']:.3f}); ")


def test_tables_become_cards_on_a_phone(text, evaluations):
    """Below 40 rem every cell says which model it is of: nothing has to stand beside anything."""
    page = Page(text)
    cells = [attributes for tag, attributes in page.tags if tag == "td" and "data-of" in attributes]
    assert {cell["data-of"] for cell in cells} >= {*evaluations, "images"}
    tables = [attributes.get("class") for tag, attributes in page.tags if tag == "table"]
    assert set(tables) == {"cards", "pictures"}
    assert "a star, *, means that the difference is unlikely to be chance" in page.text
