"""The pages in a real browser: drawn on, reloaded, repaired from, by pointer and by keys alone, by two people at once."""

from __future__ import annotations

import io
import json
import re
from urllib.parse import quote

import datasets
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the pages need attention-refine[app]")
pytest.importorskip("uvicorn", reason="the pages need attention-refine[app]")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
import word_model_folders  # noqa: E402
from app_runs import CLASSES, make_folder, make_model, make_photograph, make_server, served  # noqa: E402

from attention_refine import data  # noqa: E402
from attention_refine.app import running  # noqa: E402

expect = playwright.expect


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_model().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "photographs", 3)


@pytest.fixture
def editor(model, folder, tmp_path):
    with served(make_server(model, folder, tmp_path / "out")) as address:
        yield address


@pytest.fixture(scope="module")
def live(model):
    with served(make_server(model, None, None)) as address:
        yield address


@pytest.fixture
def person(browser):
    """Pages of people who share nothing; none may have anything on its console, or ask elsewhere."""
    contexts, problems = [], []

    def come(address: str, path: str = "/", **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda sent: sent.url.startswith((address, "data:", "blob:")) or problems.append(sent.url))
        page.goto(address + path)
        return page

    come.problems = problems
    yield come
    for context in contexts:
        context.close()
    assert problems == []


def opened(page) -> str:
    expect(page.locator("#scores table")).to_be_visible()
    return page.locator("#name").inner_text()


def stroke(page, start=(0.35, 0.4), end=(0.6, 0.6)) -> None:
    """Draw a line, in shares of the picture."""
    canvas = page.locator("canvas.draw")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    start, end = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end))
    page.mouse.move(*start), page.mouse.down()
    page.mouse.move(*end, steps=5), page.mouse.up()


def says(page, text: str) -> None:
    expect(page.locator("#status")).to_have_text(text)


def columns(page) -> list[list[str]]:
    """The table of the prediction, column by column, without the head."""
    rows = page.locator("#scores tbody tr").all()
    return list(zip(*[[cell.inner_text().strip() for cell in row.locator("th, td").all()] for row in rows]))


def saved_maps(folder) -> dict[str, np.ndarray]:
    rows = data.load_dataset(folder, "train")
    if "maps" not in rows.column_names:
        return {}
    files = [cell["path"] for cell in rows.cast_column("image", datasets.Image(decode=False))["image"]]
    return {file: data.read_map(map) for file, map, flag in zip(files, rows["maps"], rows["edited"]) if flag}


def test_what_a_text_names_is_drawn_saved_and_taken_back(person, model, folder, tmp_path):
    words = word_model_folders.write(tmp_path / "words", "clipseg")
    with served(make_server(model, folder, tmp_path / "out", words=words)) as address:
        page = person(address)
        opened(page)
        page.get_by_label("What to find in the photograph").fill("a bird")
        page.keyboard.press("Enter")
        says(page, "Saved.")
        ((_, map),) = saved_maps(folder).items()
        assert set(np.unique(map.round(2))) == {0, 1}
        page.get_by_label("What to find in the photograph").fill("")
        page.get_by_role("button", name="Draw it").click()
        expect(page.locator("#status")).to_contain_text("Write what to find")
        page.get_by_role("button", name="Undo").click()
        says(page, "The edit is taken back.")
        assert saved_maps(folder) == {}


# the editor ----------------------------------------------------------------------------------------------------------


def test_a_stroke_changes_the_prediction_is_saved_and_there_after_a_reload(person, editor, folder):
    page = person(editor)
    name = opened(page)
    assert page.url == f"{editor}/edit#{quote(name.split(': ')[0], safe='')}"
    assert len(columns(page)) == 2 and saved_maps(folder) == {}
    stroke(page)
    says(page, "Saved.")
    expect(page.locator("#count")).to_have_text("1 of 9 have an edited map")
    classes, plain, mine = columns(page)
    assert sorted(classes) == sorted(CLASSES) and plain != mine
    expect(page.locator("#sentence")).to_contain_text("With your map")
    ((file, map),) = saved_maps(folder).items()
    assert name.startswith("train/") and file.endswith(name.split(": ")[0])
    height, width = map.shape
    assert map[int(0.5 * height), int(0.475 * width)] == 1 and map[int(0.1 * height), int(0.1 * width)] == 0
    page.reload()
    assert opened(page) == name and columns(page) == [classes, plain, mine]
    page.keyboard.press("e")  # brush out of what was saved, over all of it
    page.locator("[data-size]").fill("40")
    stroke(page, (0.3, 0.35), (0.7, 0.7))
    says(page, "Saved.")
    assert saved_maps(folder)[file].max() < 0.5
    page.keyboard.press("Control+z")
    page.keyboard.press("y")
    page.keyboard.press("z")
    says(page, "Saved.")
    expect(page.locator("[data-do=redo]")).to_be_enabled()
    expect(page.locator("#scores tbody")).to_contain_text(mine[0])
    page.get_by_role("button", name="Take this edit back").click()
    says(page, "The edit is taken back.")
    assert saved_maps(folder) == {} and len(columns(page)) == 2


def test_everything_can_be_done_with_keys_alone(person, editor, folder):
    page = person(editor)
    first = opened(page)
    reached = set()
    focused = "document.activeElement.className || document.activeElement.dataset.tool || document.activeElement.id"
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(focused))
        if "draw" in reached:
            break
    assert {"in", "out", "box", "click", "draw"} <= reached, reached
    page.keyboard.press("ArrowRight"), page.keyboard.press("Space")
    says(page, "Saved.")
    (map,) = saved_maps(folder).values()
    at = np.argwhere(map == 1).mean(0) / map.shape
    assert at == pytest.approx((0.5, 0.54), abs=0.02)
    page.keyboard.press("0"), page.keyboard.press("r")
    page.keyboard.press("Space")
    for _ in range(3):
        page.keyboard.press("ArrowDown"), page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    expect(page.locator("[data-do=undo]")).to_be_enabled()
    says(page, "Saved.")
    page.keyboard.press("n")
    expect(page.locator("#name")).not_to_have_text(first)
    (map,) = saved_maps(folder).values()
    height, width = map.shape
    assert map.sum() == pytest.approx((0.12 * width) ** 2, rel=0.1), "a box of three steps by three"
    page.keyboard.press("m")  # the model's own map, on the next image
    says(page, "Saved.")
    assert len(saved_maps(folder)) == 2
    page.keyboard.press("p")
    expect(page.locator("#name")).to_have_text(first)
    page.keyboard.press("c")
    stroke(page, (0.2, 0.2), (0.2, 0.2))
    says(page, "Saved.")


def test_two_people_draw_at_once_and_a_newer_map_is_not_run_over(person, editor, folder):
    one, other = person(editor), person(editor)
    first = opened(one)
    opened(other)
    other.keyboard.press("n")
    expect(other.locator("#name")).not_to_have_text(first)
    stroke(one), stroke(other, (0.2, 0.3), (0.3, 0.3))
    says(one, "Saved."), says(other, "Saved.")
    assert len(saved_maps(folder)) == 2
    other.keyboard.press("p")
    expect(other.locator("#name")).to_have_text(first)
    expect(other.locator("#scores thead")).to_contain_text("with your map")
    stroke(one, (0.5, 0.2), (0.5, 0.8))
    says(one, "Saved.")
    before = {file: map.sum() for file, map in saved_maps(folder).items()}
    stroke(other, (0.2, 0.2), (0.8, 0.2))
    expect(other.locator("#status")).to_contain_text("was saved in the meantime")
    assert {file: map.sum() for file, map in saved_maps(folder).items()} == before
    stroke(other, (0.2, 0.2), (0.8, 0.2))  # on what is shown now
    says(other, "Saved.")
    assert person.problems and all("409" in each for each in person.problems)
    person.problems.clear()


def test_what_cannot_be_sent_is_sent_again(person, model, folder, tmp_path):
    listener = running.listening("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    app = make_server(model, folder, tmp_path / "out")
    with served(app, port) as address:
        page = person(address)
        opened(page)
    stroke(page)
    expect(page.locator("#status")).to_contain_text("Not saved yet: the editor does not answer")
    assert saved_maps(folder) == {}
    with served(app, port):
        says(page, "Saved.")
    assert len(saved_maps(folder)) == 1
    person.problems.clear()  # the browser's own words on a server that is gone


def test_the_model_is_repaired_from_the_page(person, editor, folder, tmp_path):
    page = person(editor)
    opened(page)
    for _ in range(3):
        page.keyboard.press("m")
        says(page, "Saved.")
        name = page.locator("#name").inner_text()
        page.keyboard.press("n")
        expect(page.locator("#name")).not_to_have_text(name)
    page.get_by_role("button", name="Repair the model").click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.locator("progress")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden(timeout=300_000)
    assert re.match(r"(Mended|Not mended)", page.locator("#stage").inner_text()), page.locator("#stage").inner_text()
    with page.context.expect_page() as tab:
        page.get_by_role("link", name="Before and after: repair-1").click()
    expect(tab.value.locator("h1")).to_contain_text("Repair of")
    assert (tmp_path / "out" / "repair-1" / "after" / "audit" / "audit.json").is_file()


# the live page -------------------------------------------------------------------------------------------------------


def file_of(seed: int) -> dict:
    stored = io.BytesIO()
    make_photograph(seed).save(stored, "PNG")
    return {"name": f"photo {seed}.png", "mimeType": "image/png", "buffer": stored.getvalue()}


def test_images_are_dropped_explained_drawn_on_and_taken_home(person, live):
    page = person(live)
    page.locator("#files").set_input_files([file_of(1), file_of(2)])
    expect(page.locator("#name")).to_have_text("photo 2.png")
    assert len(columns(page)) == 2
    expect(page.locator("#tiles figcaption")).to_have_count(2)
    page.get_by_label("eigen cam").check()
    page.get_by_label("attention rollout").check()
    page.locator("#target").select_option("owl")
    expect(page.locator("#tiles figcaption")).to_have_count(4)
    expect(page.locator("#tiles button:visible")).to_have_count(6)  # a network of convolutions has no attention
    with page.expect_download() as got:
        page.get_by_label("Download numbers of grad cam").click()
    numbers = json.loads(got.value.path().read_text())
    assert got.value.suggested_filename == "photo 2-grad_cam.json"
    assert numbers["explained"] == "owl" and set(numbers["scores"]) == set(CLASSES)
    assert len(numbers["map"]) == 64 and len(numbers["map"][0]) == 64
    with page.expect_download() as got:
        page.get_by_label("Download picture of the model's own").click()
    with Image.open(got.value.path()) as picture:
        assert picture.format == "PNG" and picture.size == (512, 384)
    stroke(page)
    expect(page.locator("#scores thead")).to_contain_text("with your map")
    _, plain, mine = columns(page)
    assert plain != mine
    with page.expect_download() as got:
        page.get_by_role("button", name="Download its numbers").click()
    numbers = json.loads(got.value.path().read_text())
    assert np.max(numbers["map"]) == 1 and numbers["scores_with_this_map"] != numbers["scores"]
    with page.expect_download() as got:
        page.get_by_role("button", name="Download this picture").click()
    assert got.value.suggested_filename == "photo 2-drawn.png"
    page.get_by_role("button", name="photo 1.png").click()
    expect(page.locator("#name")).to_have_text("photo 1.png")
    assert len(columns(page)) == 2
    page.get_by_role("button", name="photo 2.png").click()
    expect(page.locator("#scores thead")).to_contain_text("with your map")
    assert columns(page)[2] == mine, "what was drawn on an image stays with it"
    expect(page.locator("#tiles figcaption", has_text="…")).to_have_count(0)  # every map was answered
    assert [each for each in person.problems if "400" not in each] == []
    person.problems.clear()  # the map that this network does not have


def test_a_broken_file_is_answered_in_a_sentence_and_the_next_one_taken(person, live, tmp_path):
    page = person(live)
    half = file_of(3)
    half = {**half, "buffer": half["buffer"][: len(half["buffer"]) // 2], "name": "half.png"}
    page.locator("#files").set_input_files(half)
    expect(page.locator("#status")).to_contain_text("half.png cannot be read as an image")
    with open(tmp_path / "large.png", "wb") as large:
        large.truncate(20 * 2**20 + 1)
    page.locator("#files").set_input_files(tmp_path / "large.png")
    expect(page.locator("#status")).to_have_text("large.png is larger than the 20 MB that are taken.")
    page.locator("#files").set_input_files(file_of(4))
    expect(page.locator("#name")).to_have_text("photo 4.png")
    says(page, "")
    assert all("400" in each for each in person.problems) and len(person.problems) == 1
    person.problems.clear()


def test_two_people_have_nothing_of_each_other(person, live):
    one, other = person(live), person(live)
    one.locator("#files").set_input_files(file_of(5))
    expect(one.locator("#name")).to_have_text("photo 5.png")
    other.reload()
    expect(other.locator("#name")).to_have_text("No image yet")
    assert other.locator("#images li").count() == 0
    other.locator("#files").set_input_files(file_of(6))
    expect(other.locator("#name")).to_have_text("photo 6.png")
    stroke(one)
    expect(one.locator("#scores thead")).to_contain_text("with your map")
    assert len(columns(other)) == 2


# both ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_names_and_roles_pass_axe_and_a_phone_has_no_sideways_scroll(person, editor, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    for path in ("/edit", "/live"):
        page = person(editor, path, color_scheme=scheme, viewport={"width": 390, "height": 800})
        if path == "/live":
            page.locator("#files").set_input_files(file_of(7))
            expect(page.locator("#tiles button:visible")).to_have_count(4)
        opened(page)
        stroke(page)
        expect(page.locator("#scores thead")).to_contain_text("with your map")
        found = axe.Axe().run(page).response["violations"]
        assert found == [], [(each["id"], each["nodes"][0]["html"]) for each in found]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
