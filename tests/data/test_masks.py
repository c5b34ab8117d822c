"""What the pixels of a mask mean, boxes held against their image, and pictures of odd shapes."""

from __future__ import annotations

import io
import json
import resource

import numpy as np
import pytest
import torch
from PIL import Image

from attention_refine import data
from attention_refine.data import DataError, Prepared, Transform, check, collate, load_dataset, prepare, read_mask
from attention_refine.data.boxes import as_boxes, check_boxes

RECIPE = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0}


def stored(pixels, format="PNG", **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def disc(inside=255, size=120, radius=37, border=None) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    far = np.hypot(y - size / 2, x - size / 2)
    made = np.where(far < radius, inside, 0).astype(np.uint8)
    if border is not None:
        made[(far >= radius) & (far < radius + 4)] = border
    return made


@pytest.mark.parametrize("quality", [30, 60, 75, 95])
@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("colour", ["L", "RGB"])
def test_a_jpeg_mask_has_the_area_it_was_drawn_with(quality, format, colour):
    exact = disc() > 0
    found = read_mask(stored(Image.fromarray(disc()).convert(colour), format, quality=quality))
    assert set(np.unique(found)) == {0, 1}
    assert (found == 1).sum() == pytest.approx(exact.sum(), rel=0.01) and ((found == 1) != exact).mean() < 0.005


def test_void_survives_in_a_jpeg():
    found = read_mask(stored(disc(border=128), "JPEG", quality=90))
    exact = read_mask(stored(disc(border=128)))
    assert (found == exact).mean() > 0.97 and (found == 255).sum() == pytest.approx((exact == 255).sum(), rel=0.25)
    assert read_mask(stored(np.zeros((9, 9), np.uint8), "JPEG")).max() == 0


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_smoothed_edges_are_cut_at_half(factor):
    small = Image.fromarray(disc(size=40, radius=12))
    found = read_mask(stored(small.resize((40 * factor,) * 2, Image.Resampling.BILINEAR)))
    assert set(np.unique(found)) == {0, 1}
    assert (found == 1).sum() == pytest.approx((disc(size=40, radius=12) > 0).sum() * factor**2, rel=0.03)


def test_the_transparency_of_one_colour_is_the_mask():
    for colour in (0, 255):
        pixels = np.full((120, 120, 4), colour, np.uint8)
        pixels[..., 3] = disc()
        assert ((read_mask(stored(pixels)) == 1) == (disc() > 0)).all()
    both = np.stack([disc(), disc(), disc(), disc()], -1)
    assert ((read_mask(stored(both)) == 1) == (disc() > 0)).all()
    noise = np.random.default_rng(0).integers(0, 255, (120, 120, 3), dtype=np.uint8)
    with pytest.raises(DataError, match="the mask has colours and transparency that say different things"):
        read_mask(stored(np.dstack([noise, disc()])))
    opaque = np.dstack([disc(), disc(), disc(), np.full((120, 120), 255, np.uint8)])
    assert ((read_mask(stored(opaque)) == 1) == (disc() > 0)).all()


@pytest.mark.parametrize(
    "pixels, options, counts",
    [
        (disc(1), {}, "01"),
        (disc(255), {}, "01"),
        (disc(65535 // 257), {}, "01"),
        (disc(15, border=255), {"void": [255]}, "01v"),
        (disc(15, border=255), {"values": [15], "void": [255]}, "01v"),
        (disc(15, border=255), {"values": [3], "void": [255]}, "0v"),
        (disc(1, border=3) + (disc(1, border=3) == 0) * np.uint8(2), {"values": [1], "void": [3]}, "01v"),
        (disc(7, border=9), {}, "01"),
        (disc(255, border=127), {"void": [127]}, "01v"),
    ],
)
def test_values_that_are_clear_or_are_said(pixels, options, counts):
    found = read_mask(stored(pixels), **options)
    assert set(np.unique(found)) == {{"0": 0, "1": 1, "v": 255}[each] for each in counts}
    if "1" in counts and pixels.max() != 9:
        assert (found == 1).sum() == (disc() > 0).sum()


@pytest.mark.parametrize(
    "pixels, options, said",
    [
        (
            disc(15, border=255),
            {},
            r"holds the values 0, 15, 255: beside class ids 255 is void.*void=255.*mask_values=",
        ),
        (disc(255, border=127), {}, "holds the values 0, 127, 255"),
        (
            disc(1, border=3) + (disc(1, border=3) == 0) * np.uint8(2),
            {},
            r"1, 2, 3 and no 0 .*mask_values=\[1\], void=\[3\]",
        ),
        (disc(255), {"values": [1]}, r"holds the values 0, 255, and mask_values are \[1\]"),
        (np.dstack([disc(200), disc(10), disc(30)]), {"values": [1]}, "is in colours, and mask_values"),
        (np.where(disc(1)[..., None] == 1, np.uint8([224, 224, 192]), np.uint8(0)), {}, "the colour of VOC's border"),
    ],
)
def test_values_with_two_meanings_are_refused_with_the_remedy(pixels, options, said):
    with pytest.raises(DataError, match=f"^m.png .*{said}"):
        read_mask(stored(pixels), "m.png", **options)


def test_small_ids_in_a_jpeg_and_fractions_are_refused():
    with pytest.raises(DataError, match="stored with losses, as JPEG does, and its values reach only"):
        read_mask(stored(disc(1), "JPEG"))
    with pytest.raises(DataError, match="holds fractions: store whole numbers"):
        read_mask(Image.fromarray(disc(1).astype(np.float32) * 0.5))
    assert (read_mask(Image.fromarray(disc(1).astype(np.float32))) == disc(1)).all()


def voc(folder, **line):
    Image.fromarray(np.full((120, 120, 3), 90, np.uint8)).save(folder / "a.png")
    palette = Image.fromarray(disc(15, border=255))
    palette.putpalette(bytes(range(256)) * 3)
    palette.save(folder / "m.png")
    row = {"file_name": "a.png", "label": "x", "mask_file_name": "m.png", **line}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.mark.parametrize("how", ["option", "line", "canonical", "stream"])
def test_what_is_void_stays_with_the_dataset(tmp_path, how):
    folder = voc(tmp_path, **({"mask_void": [255]} if how == "line" else {}))
    if how == "canonical":
        dataset = data.as_canonical(load_dataset(folder), void=255, mask_values=[15])
    else:
        dataset = load_dataset(folder, streaming=how == "stream", **({} if how == "line" else {"void": 255}))
    item = next(iter(data.prepare(dataset, RECIPE)))
    assert set(item["mask"].unique().tolist()) == {0, 1, 255}
    with pytest.raises(DataError, match=r"the mask .*m.png of row 0 \(.*a.png\) holds the values 0, 15, 255"):
        Prepared(load_dataset(voc(tmp_path)), RECIPE)[0]
    with pytest.raises(DataError, match="void must be a whole number or several"):
        load_dataset(tmp_path, void="255")


# --- boxes are held against their image


def boxed(folder, box, size=(90, 70), exif=None, name="bbox"):
    image = Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8))
    image.save(folder / "a.jpg", **({"exif": exif} if exif else {}))
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.jpg", "label": "x", name: box}) + "\n")
    return Prepared(load_dataset(folder), RECIPE)


@pytest.mark.parametrize("name", ["bbox", "cue_bbox"])
@pytest.mark.parametrize(
    "box, said",
    [
        ([40, 30, 80, 60], r"\[40.0, 30.0, 80.0, 60.0\] .* leaves its image of 90x70 .*box_format='xyxy'"),
        ([200, 200, 10, 10], "leaves its image of 90x70 .*: correct it"),
        ([-50, 0, 20, 20], "leaves its image"),
        ([10, 10, 0, 5], "has no area"),
    ],
)
def test_a_box_that_leaves_its_image_is_refused(tmp_path, name, box, said):
    with pytest.raises(
        DataError, match=rf"row 0 \(.*a.jpg\): {name} {'.*' if said.startswith(('h', 'l')) else ''}{said}"
    ):
        boxed(tmp_path, box, name=name)[0]


def test_a_box_of_a_photograph_that_exif_turns(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(DataError, match="leaves its image of 70x90 .* before it was turned upright .EXIF."):
        boxed(tmp_path, [60, 10, 25, 30], exif=exif)[0]
    assert boxed(tmp_path, [10, 60, 30, 25], exif=exif)[0]["boxes"].shape == (1, 4)


def test_a_box_that_rounding_left_out_by_a_pixel_is_clipped(tmp_path):
    assert boxed(tmp_path, [-1, 0, 92, 71])[0]["boxes"].tolist() == [[0, 0, 64, 64]]


# --- pictures of odd shapes


@pytest.mark.parametrize("size", [(20000, 2), (2, 20000)])
@pytest.mark.parametrize("train", [False, True])
def test_a_very_long_picture_takes_little_memory(size, train):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    transform = Transform({**RECIPE, "input_size": [3, 224, 224], "crop_pct": 0.875}, train=train)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    item = transform(image, np.ones(size[::-1], np.uint8), [[0, 0, size[0], size[1]]])
    assert item["pixel_values"].shape == (3, 224, 224) and item["mask"].eq(1).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, "300 MiB"


@pytest.mark.parametrize("size", [(1200, 40), (1201, 40), (40, 1199)])
def test_the_middle_of_a_long_picture_is_the_middle(size):
    """Beside what one gets from the whole, enlarged."""
    noise = np.random.default_rng(1).integers(0, 256, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    box = [[size[0] / 2 - 15, size[1] / 2 - 15, 30, 30]]
    transform = Transform(RECIPE)
    cut, transform._bounded = transform(image, None, box), lambda sample: sample
    whole = transform(image, None, box)
    torch.testing.assert_close(cut["pixel_values"], whole["pixel_values"], rtol=0, atol=0.05)
    torch.testing.assert_close(cut["boxes"], whole["boxes"], rtol=0, atol=0.6)


# --- what boxes and masks hold that is something else


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.2, 0.2], [0, 0, 1, 1], [0.1, 0.0, 1.0, 0.3]])
def test_shares_of_the_image_are_no_pixels(box):
    with pytest.raises(DataError, match=r"seems to be shares of its image of 40x32: give pixels. YOLO's"):
        check_boxes([box], (40, 32), "row 0: bbox")
    check_boxes([[2, 1, 1, 1], [0.5, 0.5, 1.5, 1]], (40, 32), "row 0: bbox")


def test_flags_are_no_numbers_of_a_box():
    with pytest.raises(DataError, match=r"bbox \[True, False, 5, 5\] is not \[x, y, width, height\] in pixels"):
        as_boxes([True, False, 5, 5], "row 0")


@pytest.mark.parametrize("size, box", [((40, 32), [20, 16, 1, 1]), ((1280, 1024), [600, 500, 10, 10]), ((40, 32), [20.3, 16.3, 0.5, 3])])  # fmt: skip
def test_a_small_object_is_not_lost_by_making_its_picture_smaller(size, box):
    transform = Transform({**RECIPE, "input_size": [3, 16, 16]})
    item = transform(Image.new("RGB", size), None, [box])
    assert len(item["boxes"]) == 1 and 1 <= int(item["mask"].sum()) <= 4
    left, top, right, bottom = item["boxes"][0].tolist()
    y, x = (each.tolist() for each in item["mask"][0].nonzero(as_tuple=True))
    assert int((left + right) / 2) in x and int((top + bottom) / 2) in y
    beside = transform(Image.new("RGB", (64, 32)), None, [[0, 10, 1, 1]])  # cut off with the sides
    assert len(beside["boxes"]) == 0 and int(beside["mask"].sum()) == 0


def test_no_boxes_say_nothing_of_where_the_object_is(tmp_path):
    rows = [
        {"file_name": "a/0.png", "label": "a", "bbox": []},
        {"file_name": "b/0.png", "label": "b", "bbox": [1, 1, 9, 9]},
    ]
    for row in rows:
        path = tmp_path / row["file_name"]
        path.parent.mkdir()
        Image.new("RGB", (32, 32)).save(path)
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = prepare(load_dataset(tmp_path), RECIPE)
    assert items.annotations["mask"] == [False, True]
    assert "mask" not in items[0] and "mask" in items[1]
    assert collate([items[0], items[1]])["mask"][0].unique().tolist() == [255]


def test_a_photograph_is_no_mask_and_a_value_is_either_object_or_void():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 40, 3), np.uint8))
    with pytest.raises(DataError, match="holds more than 256 colours, as a photograph does"):
        read_mask(noise)
    with pytest.raises(DataError, match="cannot be read with 255 among both mask_values and void"):
        read_mask(Image.new("L", (4, 4)), values=[1, 255], void=[255])


def test_colours_without_black_have_no_background():
    left = np.zeros((32, 40, 3), np.uint8)
    left[:, :20] = (255, 0, 0)
    assert read_mask(Image.fromarray(left)).sum() == 32 * 20
    assert (read_mask(Image.fromarray(np.full((8, 8, 3), (255, 0, 0), np.uint8))) == 1).all(), (
        "one that fills the picture"
    )
    left[:, 20:] = (0, 0, 255)
    with pytest.raises(DataError, match=r"holds the colours \(0, 0, 255\), \(255, 0, 0\) and no black for background"):
        read_mask(Image.fromarray(left))


def test_check_names_a_mask_without_an_object(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / f"{name}.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "masks" / "a.png")
    assert check(tmp_path).problems == [
        f"the mask {tmp_path / 'masks' / 'a.png'} holds no object: all of it is background, or void"
    ]
