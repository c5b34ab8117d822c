"""What the pages are told of a photograph is what the model says, and a drawn map lies where it was drawn."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("starlette", reason="the pages need attention-refine[app]")
pytest.importorskip("uvicorn", reason="the pages need attention-refine[app]")
from app_runs import make_model, make_photograph  # noqa: E402

import attention_refine as ar  # noqa: E402
from attention_refine.app.viewer import CELLS, LONGEST, Viewer  # noqa: E402
from attention_refine.maps import Map  # noqa: E402


@pytest.fixture(scope="module")
def viewer():
    return Viewer(make_model())


def soft(height: int, width: int) -> torch.Tensor:
    """A map that is smooth and different at every place."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return 0.1 + 0.5 * x + 0.3 * y


@pytest.mark.parametrize("size", [(96, 72), (64, 64), (40, 130), (640, 480), (60, 300)])
def test_a_map_put_on_the_photograph_and_cut_as_training_cuts_is_the_map_again(viewer, size):
    seen = viewer.look(make_photograph(1, *size))
    values = soft(64, 64)
    whole = viewer.placed(seen, values, unit=True)
    assert whole.shape == seen.grid and max(seen.grid) == CELLS
    again = viewer._cropped(whole)[0, 0]
    inside = (slice(3, -3),) * 2  # at the rim the map falls to the nothing outside, over a cell or two
    coarse = 64 / CELLS * max(size) / min(size)  # pixels of what the model sees to a cell that is drawn
    torch.testing.assert_close(again[inside], values[inside], rtol=0, atol=0.02 + 0.01 * coarse)


def test_outside_of_what_the_model_sees_there_is_nothing(viewer):
    seen = viewer.look(make_photograph(2, 96, 48))
    whole = viewer.placed(seen, torch.ones(64, 64), unit=True)
    height, width = seen.grid
    left, top, right, bottom = (share * side for share, side in zip(seen.box, (width, height, width, height)))
    assert 0 < left < right < width and 0 < top < bottom < height
    assert whole.sum() == pytest.approx((right - left) * (bottom - top), rel=0.03)
    assert whole[:, : int(left)].sum() == whole[: int(top)].sum() == 0


def test_predictions_are_the_models_and_a_zero_map_is_the_plain_backbone(viewer):
    picture = make_photograph(3)
    seen, model = viewer.look(picture), viewer.model
    pixels = model.preprocess(picture)
    torch.testing.assert_close(seen.pixel_values, pixels, rtol=0, atol=0)
    with torch.no_grad():
        plain = model.backbone(pixels).softmax(1)[0]
        whole = model(pixels, maps=torch.ones(1, 1, 8, 8)).logits.softmax(1)[0]
    assert viewer.predict(seen) == pytest.approx(model(pixels).logits.softmax(1)[0].tolist(), abs=1e-6)
    assert viewer.predict(seen, np.zeros(seen.grid, np.float32)) == pytest.approx(plain.tolist(), abs=1e-6)
    assert viewer.predict(seen, np.ones(seen.grid, np.float32)) == pytest.approx(whole.tolist(), abs=1e-5)
    half = np.zeros(seen.grid, np.float32)
    half[: seen.grid[0] // 2] = 1
    assert max(np.abs(np.subtract(viewer.predict(seen, half), plain.tolist()))) > 1e-3, "a map moves the prediction"


@pytest.mark.parametrize("method", ["model", "grad_cam", "gradient", "eigen_cam"])
def test_maps_are_those_of_explain(viewer, method):
    seen = viewer.look(make_photograph(4))
    target = None if method == "eigen_cam" else 1
    expected = viewer.model.explain(seen.pixel_values, target=target, method=method)[0, 0]
    torch.testing.assert_close(viewer.map(seen, method, 1), expected)
    drawn = viewer.placed(seen, expected, unit=method == "model")
    assert drawn.dtype == np.float32 and drawn.min() >= 0 and drawn.max() <= 1


def test_a_model_without_a_head_shows_the_map_that_its_audit_looks_at_and_takes_none():
    viewer = Viewer(make_model(head=None))
    seen = viewer.look(make_photograph(5))
    assert viewer.own == "grad_cam" and not viewer.acts and viewer.methods()[0] == "grad_cam"
    assert viewer.own_map(seen).shape == seen.grid
    with pytest.raises(ValueError, match="has no head, so a map cannot act"):
        viewer.predict(seen, np.zeros(seen.grid, np.float32))


def test_with_a_map_for_each_class_the_one_of_the_class_is_shown():
    model = ar.wrap("test_resnet", pretrained=False, head=ar.AttentionBranch(maps="per_class"), labels=["a", "b"])
    model.preprocessing.update(input_size=[3, 64, 64])
    viewer = Viewer(model)
    seen = viewer.look(make_photograph(6))
    every = model.explain(seen.pixel_values, method="model")[0]
    torch.testing.assert_close(viewer.map(seen, "model", 1), every[1])
    best = int(np.argmax(viewer.predict(seen)))
    torch.testing.assert_close(viewer.map(seen, "model"), every[best])


def test_several_threads_are_told_what_one_is(viewer):
    seen = [viewer.look(make_photograph(number)) for number in range(4)]
    ask = [(viewer.predict, each) for each in seen] + [(viewer.own_map, each) for each in seen]
    alone = [function(each) for function, each in ask]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda pair: pair[0](pair[1]), ask * 3))
    for expected, found in zip(alone * 3, together):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_slow_map_holds_up_no_prediction(viewer, monkeypatch):
    seen, begun, go_on = viewer.look(make_photograph(8)), threading.Event(), threading.Event()

    def slow(net, pixel_values, target=None, **options):
        begun.set()
        assert go_on.wait(60) and options == {"masks": 300}
        return torch.zeros(1, 1, 4, 4)

    made = Map("rise", slow, kind="sampled", differentiable=False, per_class=True)
    monkeypatch.setattr("attention_refine.app.viewer.by_name", lambda name: made)
    with ThreadPoolExecutor(1) as pool:
        map = pool.submit(viewer.map, seen, "rise")
        assert begun.wait(60)
        assert sum(viewer.predict(seen)) == pytest.approx(1) and viewer.own_map(seen).shape == seen.grid
        go_on.set()
        assert map.result(60).shape == (64, 64)


def test_what_is_shown_is_no_larger_than_a_page_needs(viewer):
    seen = viewer.look(make_photograph(7, 3000, 100))
    with Image.open(io.BytesIO(seen.picture)) as shown:
        assert shown.format == "JPEG" and shown.width == LONGEST and seen.size == (3000, 100)


def test_a_network_of_clips_is_refused():
    model = make_model()
    model.preprocessing["input_size"] = [3, 8, 64, 64]
    with pytest.raises(ValueError, match="takes clips of 8 frames, and the pages show photographs"):
        Viewer(model)
