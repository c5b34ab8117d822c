"""Data: canonical columns from every source, transforms that move image, mask and boxes as one, and bad input."""

from __future__ import annotations

import io
import json
import warnings

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from attention_refine import data, shapes
from attention_refine.data import DataError, Prepared, PreparedStream, Transform, collate, load_dataset, prepare

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def recipe(size=(64, 64), interpolation="bilinear", crop_pct=0.875, **more):
    given = {"input_size": [3, *size], "mean": MEAN, "std": STD, "interpolation": interpolation, "crop_pct": crop_pct}
    return given | more


def photo(seed=0, size=(90, 70)):
    """A smooth random RGB image, (width, height)."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def box_photo(box, size=(120, 100)):
    """A white rectangle [x, y, width, height] on black, with its mask (0, 1)."""
    x, y, w, h = box
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return Image.fromarray(mask * 255).convert("RGB"), mask


def write_folder(folder, lines, masks=True):
    """An imagefolder from metadata lines; the files that lines name are made."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, line in enumerate(lines):
        path = folder / line["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(i).save(path)
        if "mask_file_name" in line:
            (folder / line["mask_file_name"]).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((70, 90), np.uint8)
            pixels[10:40, 20:60] = 255
            pixels[9, 20:60] = 128
            Image.fromarray(pixels).save(folder / line["mask_file_name"])
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def pets(folder, n=6, names=("cat", "dog", "ant")):
    lines = [
        {
            "file_name": f"{i}.png",
            "label": names[i % len(names)],
            "mask_file_name": f"masks/{i}.png",
            "bbox": [20, 10, 40, 30],
        }
        for i in range(n)
    ]
    return write_folder(folder, lines)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# --- image, mask and boxes move as one


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_mask_and_box_follow_the_image(train, size, interpolation):
    """A white rectangle: wherever it goes, the mask is the thresholded image and the box bounds it."""
    image, mask = box_photo((30, 20, 50, 60))
    transform = Transform(recipe(size, interpolation), train=train)
    for seed in range(20 if train else 1):
        torch.manual_seed(seed)
        item = transform(image, mask, [[30, 20, 50, 60]])
        white = (item["pixel_values"] * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1))[0] > 0.5
        assert item["pixel_values"].shape == (3, *size) and item["mask"].shape == (1, *size)
        assert (item["mask"][0] != white.to(torch.uint8)).sum() <= 4  # the corners: 0.7 * 0.7 is below a half
        y, x = torch.nonzero(white, as_tuple=True)
        seen = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        assert (item["boxes"][0] - seen).abs().max() <= 1


def test_mask_is_not_half_a_pixel_off_after_downscaling():
    """Reduced eight times, a mask's pixel is the one under the new pixel's centre."""
    mask = np.zeros((512, 512), np.uint8)
    mask[:, 12:] = 1  # the edge lies between the centres (8 i + 4) of pixels 0 and 1, mid-pixel
    item = Transform(recipe((64, 64), crop_pct=1.0))(Image.fromarray(mask * 255).convert("RGB"), mask)
    assert item["mask"][0, 0, :3].tolist() == [0, 1, 1]


def test_flip_mirrors_mask_and_boxes():
    image, mask = box_photo((10, 20, 30, 40), (64, 64))
    flipped = Transform(recipe(crop_pct=1.0), True, augment=v2.RandomHorizontalFlip(p=1.0))(
        image, mask, [[10, 20, 30, 40]]
    )
    plain = Transform(recipe(crop_pct=1.0))(image, mask, [[10, 20, 30, 40]])
    assert torch.equal(flipped["mask"], plain["mask"].flip(2))
    assert torch.equal(flipped["pixel_values"], plain["pixel_values"].flip(2))
    assert flipped["boxes"].tolist() == [[24, 20, 54, 60]] and plain["boxes"].tolist() == [[10, 20, 40, 60]]


def test_the_cue_moves_with_its_image_and_comes_from_a_folder_too(tmp_path):
    image = photo(size=(64, 64))
    cue = torch.zeros(1, 64, 64, dtype=torch.uint8)
    cue[:, 20:60, 10:40] = 1
    plain = Transform(recipe(crop_pct=1.0))(image, cue=[[10, 20, 30, 40]])
    assert torch.equal(plain["cue"], cue) and not {"mask", "boxes"} & plain.keys()
    flip = Transform(recipe(crop_pct=1.0), True, augment=v2.RandomHorizontalFlip(p=1.0))
    assert torch.equal(flip(image, cue=[[10, 20, 30, 40]])["cue"], cue.flip(2))
    drawn = shapes.make("train", 3, size=64)
    folder = load_dataset(shapes.write(tmp_path / "shapes", ("train",), 3, size=64))
    for rows in (drawn, folder):
        item = prepare(rows, recipe(crop_pct=1.0))[1]
        [[x, y, width, height]] = drawn[1]["cue_bbox"]
        assert abs(int(item["cue"].sum()) - width * height) <= width + height  # the badge, up to the pixels on its edge
        assert not (item["cue"] & (item["mask"] == 1)).any()


def test_boxes_are_clipped_degenerate_ones_dropped_and_filled_into_a_mask():
    image = photo(size=(128, 64))  # evaluation keeps the middle 64 columns: x from 32 to 96
    boxes = [[20, 10, 30, 20], [0, 0, 20, 64], [40, 40, 0, 5], [90, 50, 30, 30]]
    item = Transform(recipe(crop_pct=1.0))(image, None, boxes)
    assert item["boxes"].tolist() == [[0, 10, 18, 30], [58, 50, 64, 64]]
    expected = torch.zeros(64, 64, dtype=torch.uint8)
    expected[10:30, 0:18] = 1
    expected[50:64, 58:64] = 1
    assert torch.equal(item["mask"][0], expected)
    nothing = Transform(recipe(crop_pct=1.0))(image, None, [])
    assert nothing["boxes"].shape == (0, 4) and not nothing["mask"].any()


def test_void_survives_and_a_mask_file_comes_before_boxes():
    mask = np.full((64, 64), 255, np.uint8)
    mask[:32] = 1
    item = Transform(recipe(crop_pct=1.0))(photo(size=(64, 64)), mask, [[0, 0, 4, 4]])
    assert torch.equal(item["mask"][0], torch.from_numpy(mask))


@pytest.mark.parametrize("augment", ["default", "jitter"])
def test_same_seed_same_pixels_and_another_seed_others(augment):
    transform = Transform(recipe(), train=True, augment=augment)
    torch.manual_seed(3)
    one = transform(photo())["pixel_values"]
    torch.manual_seed(3)
    again = transform(photo())["pixel_values"]
    assert torch.equal(one, again) and not torch.equal(one, transform(photo())["pixel_values"])


def test_no_augmentation_is_evaluation():
    assert same(Transform(recipe(), train=True, augment="none")(photo()), Transform(recipe())(photo()))


# --- timm's evaluation pixels


def _timm(size, interpolation, crop_pct, crop_mode="center"):
    return timm.data.create_transform(
        input_size=(3, *size),
        interpolation=interpolation,
        mean=MEAN,
        std=STD,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        is_training=False,
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size, crop_pct", [((64, 64), 0.875), ((96, 96), 1.0), ((48, 80), 0.9), ((80, 48), 0.95)])
def test_evaluation_pixels_are_timms(interpolation, size, crop_pct):
    for seed, shape in enumerate([(90, 70), (70, 90), (64, 64), (201, 67), (30, 40)]):
        image = photo(seed, shape)
        ours = Transform(recipe(size, interpolation, crop_pct))(image)["pixel_values"]
        assert (ours - _timm(size, interpolation, crop_pct)(image)).abs().max() < 1e-5


def test_squashed_pixels_are_timms():
    ours = Transform(recipe((64, 64), "bicubic", 1.0, crop_mode="squash"))(photo())["pixel_values"]
    assert (ours - _timm((64, 64), "bicubic", 1.0, "squash")(photo())).abs().max() < 1e-5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_pixels_of_real_photographs_are_timms(shared, interpolation):
    for name in ("pets3", "cub20"):
        photos = load_dataset(shared / "data" / name, "test").select(range(0, 290, 58))
        prepared = Prepared(photos, recipe((224, 224), interpolation))
        reference = _timm((224, 224), interpolation, 0.875)
        for i, row in enumerate(photos):
            difference = prepared[i]["pixel_values"] - reference(row["image"].convert("RGB"))
            assert difference.abs().max() < 2 / 255


# --- image files as they come


def _png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def test_exif_rotation_is_undone_and_the_mask_matches_the_upright_image(tmp_path):
    upright, mask = box_photo((10, 20, 30, 60), (60, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: a viewer turns it by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(mask * 255).save(tmp_path / "m.png")
    (tmp_path / "metadata.csv").write_text('file_name,label,mask_file_name,bbox\na.png,x,m.png,"[10, 20, 30, 60]"\n')
    item = Prepared(load_dataset(tmp_path), recipe((60, 60), crop_pct=1.0))[0]
    white = (item["pixel_values"][0] * STD[0] + MEAN[0]) > 0.5
    assert torch.equal(item["mask"][0] == 1, white) and white.any()
    assert item["boxes"].tolist() == [[10, 0, 40, 60]]


def test_other_modes_become_rgb():
    grey = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (16, 1))
    expected = np.repeat(grey[..., None], 3, 2)
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    palette = Image.fromarray(grey)
    palette = palette.convert("RGB").quantize(64)
    for image in (
        Image.fromarray(grey),
        wide,
        Image.fromarray(grey).convert("RGBA"),
        Image.fromarray(grey).convert("LA"),
    ):
        assert np.array_equal(np.asarray(data.read_image(_png(image))), expected), image.mode
    assert np.abs(np.asarray(data.read_image(_png(palette))).astype(int) - expected).max() <= 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.read_image(_png(palette, transparency=bytes([0, 128]))).mode == "RGB"
    assert data.read_image(_png(photo().convert("CMYK"), format="JPEG")).mode == "RGB"
    with pytest.raises(DataError, match="x.tiff cannot be read .*floating-point"):
        data.read_image(_png(Image.fromarray(np.zeros((4, 4), np.float32)), format="TIFF"), "x.tiff")


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16", "LA"])
def test_mask_files_of_every_mode(mode):
    values = np.array([[0, 128, 255], [1, 77, 0]], np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    elif mode == "P":
        image = Image.fromarray(values)
        image.putpalette(bytes(range(256)) * 3)
    else:
        image = Image.fromarray(values).convert(mode)
    assert data.read_mask(_png(image)).tolist() == [[0, 255, 1], [1, 1, 0]]


def test_one_bit_masks():
    assert data.read_mask(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")).tolist() == [[0, 1]]


# --- sources


def test_metadata_gives_canonical_columns_and_a_masked_batch(tmp_path):
    dataset = load_dataset(pets(tmp_path))
    assert dataset.column_names == ["image", "label", "mask", "bbox"]
    assert data.class_names(dataset) == ["ant", "cat", "dog"] and not data.is_multi_label(dataset)
    assert dataset["label"] == [1, 2, 0] * 2
    batch = next(iter(DataLoader(Prepared(dataset, recipe()), batch_size=4, collate_fn=collate)))
    assert batch["pixel_values"].shape == (4, 3, 64, 64) and batch["pixel_values"].dtype == torch.float32
    assert batch["labels"].tolist() == [1, 2, 0, 1] and batch["labels"].dtype == torch.int64
    assert batch["mask"].shape == (4, 1, 64, 64) and batch["mask"].dtype == torch.uint8
    assert set(batch["mask"].unique().tolist()) == {0, 1, 255}
    assert [b.shape for b in batch["boxes"]] == [(1, 4)] * 4
    assert batch["index"].tolist() == [0, 1, 2, 3]


def test_class_folders_splits_and_short_names(tmp_path):
    for split, names in (("train", ("b", "a")), ("val", ("b",))):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            photo().save(tmp_path / split / name / "1.png")
    train, validation = load_dataset(tmp_path), load_dataset(tmp_path, "validation")
    assert (
        data.class_names(train) == data.class_names(validation) == ["a", "b"]
    )  # the training split's, though val has one
    assert train["label"] == [0, 1] and validation["label"] == [1]
    assert load_dataset(tmp_path, "val")["label"] == [1]


def test_an_edited_folder_is_read_anew(tmp_path):
    pets(tmp_path, n=3)
    assert len(load_dataset(tmp_path)) == 3
    pets(tmp_path, n=6, names=("cat", "cow"))
    again = load_dataset(tmp_path)
    assert len(again) == 6 and data.class_names(again) == ["cat", "cow"]


def test_one_metadata_file_for_all_splits(tmp_path):
    lines = [{"file_name": f"{split}/{i}.png", "label": "ab"[i % 2]} for split in ("train", "test") for i in range(2)]
    write_folder(tmp_path, lines)
    assert len(load_dataset(tmp_path)) == len(load_dataset(tmp_path, "test")) == 2


def test_parquet_metadata_numbers_as_names_and_renamed_fields(tmp_path):
    import pyarrow
    import pyarrow.parquet

    for i in range(3):
        photo(i).save(tmp_path / f"{i}.png")
    table = pyarrow.table({"photo_file_name": ["0.png", "1.png", "2.png"], "species": [10, 9, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "metadata.parquet")
    dataset = load_dataset(tmp_path, image_column="photo", label_column="species")
    assert data.class_names(dataset) == ["2", "9", "10"] and dataset["label"] == [2, 1, 0]
    with pytest.raises(DataError, match="row 0 has no field 'file_name'.*photo_file_name"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="row 0 has no 'label'.*species"):
        load_dataset(tmp_path, image_column="photo")


def test_several_labels(tmp_path):
    lines = [{"file_name": f"{i}.png", "labels": labels} for i, labels in enumerate([["b", "a"], [], ["c"]])]
    dataset = load_dataset(write_folder(tmp_path, lines))
    assert data.is_multi_label(dataset) and data.class_names(dataset) == ["a", "b", "c"]
    prepared = Prepared(dataset, recipe(), class_names=["c", "b", "a"])
    batch = collate([prepared[i] for i in range(3)])
    assert batch["labels"].tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]] and batch["labels"].dtype == torch.float32
    assert "mask" not in batch and "boxes" not in batch


def test_datasets_of_any_origin_become_canonical(tmp_path):
    features = datasets.Features(img=datasets.Image(), fine=datasets.ClassLabel(names=["x", "y"]))
    dataset = datasets.Dataset.from_dict({"img": [_png(photo(0)), _png(photo(1))], "fine": [1, 0]}, features=features)
    canonical = data.as_canonical(dataset)
    assert canonical.column_names == ["image", "label"] and canonical["label"] == [1, 0]
    swapped = data.as_canonical(dataset, class_names=["y", "x"])
    assert swapped["label"] == [0, 1] and data.class_names(swapped) == ["y", "x"]
    with pytest.raises(DataError, match="row 0: label 'y' is not one of the 1 classes"):
        data.as_canonical(dataset, class_names=["x"])
    with pytest.raises(DataError, match=r"no column 'kind' \(label_column\): it has img, fine"):
        data.as_canonical(dataset, label_column="kind")
    with pytest.raises(DataError, match="image_column"):
        data.as_canonical(dataset, image_column="fine")
    dataset.to_parquet(tmp_path / "train-00000.parquet")
    from_tables = load_dataset(tmp_path)
    assert from_tables["label"] == [1, 0]
    with pytest.raises(DataError, match="no split 'test'"):
        load_dataset(tmp_path, "test")


def test_saved_datasets_and_names_as_labels(tmp_path):
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("string"))
    both = datasets.DatasetDict(
        train=datasets.Dataset.from_dict(
            {"image": [_png(photo(i)) for i in range(3)], "label": list("cab")}, features=features
        ),
        test=datasets.Dataset.from_dict({"image": [_png(photo(9))], "label": ["b"]}, features=features),
    )
    both.save_to_disk(tmp_path / "saved")
    test = load_dataset(tmp_path / "saved", "test")
    assert data.class_names(test) == ["a", "b", "c"] and test["label"] == [1]
    assert list(load_dataset(tmp_path / "saved", "test", streaming=True))[0]["label"] == 1
    with pytest.raises(DataError, match="no split 'validation'.*train, test"):
        load_dataset(tmp_path / "saved", "validation")
    with pytest.raises(DataError, match="expected one split"):
        data.as_canonical(both)


def test_the_embedded_dataset_by_name(monkeypatch):
    monkeypatch.setattr(shapes, "SIZES", {"train": 4, "validation": 3, "test": 2, "test_intact": 1})
    assert len(load_dataset("shapes")) == 4
    assert len(load_dataset("shapes", "validation")) == 3
    assert len(load_dataset("shapes:test")) == 2
    assert len(list(load_dataset("shapes", "test_intact", streaming=True))) == 1
    with pytest.raises(DataError, match="no split 'dev'"):
        load_dataset("shapes", "dev")
    item = Prepared(load_dataset("shapes:test"), recipe())[0]
    assert item["mask"].any() and item["boxes"].shape == (1, 4)


def test_pets_and_birds(shared):
    pets3, birds = load_dataset(shared / "data/pets3"), load_dataset(shared / "data/cub20", "test")
    assert len(pets3) == 300 and len(data.class_names(pets3)) == 3 and "mask" in pets3.features
    assert len(birds) == 586 and len(data.class_names(birds)) == 20
    item = Prepared(birds, recipe())[5]
    assert item["boxes"].shape == (1, 4) and item["mask"].float().mean() > 0.02


def test_split_is_stratified_disjoint_and_seeded():
    label = datasets.ClassLabel(names=["a", "b", "rare"])
    features = datasets.Features(image=datasets.Image(), label=label)
    labels = [0] * 20 + [1] * 10 + [2]
    dataset = datasets.Dataset.from_dict({"image": [f"{i}.png" for i in range(31)], "label": labels}, features=features)

    def names(part):
        return [cell["path"] for cell in part.cast_column("image", datasets.Image(decode=False))["image"]]

    train, validation = data.split_train_validation(dataset, 0.2, seed=0)
    assert sorted(validation["label"]) == [0] * 4 + [1] * 2 and len(train) == 25
    assert sorted(names(train) + names(validation)) == sorted(f"{i}.png" for i in range(31))
    assert names(data.split_train_validation(dataset, 0.2, seed=0)[1]) == names(validation)
    assert names(data.split_train_validation(dataset, 0.2, seed=1)[1]) != names(validation)
    for fraction in (0.0, 1.0, -1):
        with pytest.raises(ValueError, match="fraction"):
            data.split_train_validation(dataset, fraction, 0)
    with pytest.raises(DataError, match="too few"):
        data.split_train_validation(dataset.select([0, 20, 30]), 0.3, 0)
    with pytest.raises(DataError, match="stream"):
        data.split_train_validation(dataset.to_iterable_dataset(), 0.3, 0)


# --- the same augmentation in any worker layout, and after a resume


@pytest.fixture
def trained(tmp_path):
    return Prepared(load_dataset(pets(tmp_path, n=7)), recipe(), train=True, seed=4)


def test_augmentation_depends_on_seed_epoch_and_row_alone(trained):
    first = [trained[i] for i in range(7)]
    torch.rand(17)
    assert all(same(trained[i], first[i]) for i in reversed(range(7)))
    trained.set_epoch(1)
    assert not any(torch.equal(trained[i]["pixel_values"], first[i]["pixel_values"]) for i in range(7))
    trained.set_epoch(0)
    assert same(trained[3], first[3])
    other = Prepared(trained.dataset.cast_column("image", datasets.Image()), recipe(), train=True, seed=5)
    assert not torch.equal(other[3]["pixel_values"], first[3]["pixel_values"])


def test_augmentation_leaves_the_callers_generator_alone(trained):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    trained[0]
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing_and_hear_of_new_epochs(trained, persistent):
    loader = DataLoader(trained, batch_size=2, num_workers=2, collate_fn=collate, persistent_workers=persistent)
    for epoch in (0, 3):
        trained.set_epoch(epoch)
        together = torch.cat([batch["pixel_values"] for batch in loader])
        assert torch.equal(together, torch.stack([trained[i]["pixel_values"] for i in range(7)]))


# --- streams


def test_a_stream_gives_the_rows_of_the_dataset(tmp_path):
    folder = pets(tmp_path)
    plain = prepare(load_dataset(folder), recipe())
    stream = prepare(load_dataset(folder, streaming=True), recipe())
    assert isinstance(plain, Prepared) and isinstance(stream, PreparedStream)
    assert stream.class_names == plain.class_names == ["ant", "cat", "dog"]
    items = list(stream)
    assert len(items) == 6 and all(same(item, plain[i]) for i, item in enumerate(items))


def test_a_streams_augmentation_follows_the_image_through_workers_and_epochs(tmp_path):
    stream = PreparedStream(load_dataset(pets(tmp_path), streaming=True), recipe(), train=True)

    def pixels(workers, epoch):
        stream.set_epoch(epoch)
        loader = DataLoader(stream, batch_size=1, num_workers=workers, collate_fn=collate)
        batches = list(loader)
        assert len({int(b["index"]) for b in batches}) == 6
        return sorted(b["pixel_values"].flatten().tolist() for b in batches)

    alone = pixels(0, 0)
    assert pixels(2, 0) == alone and pixels(0, 1) != alone and pixels(0, 0) == alone


def test_a_stream_skips_and_counts(tmp_path):
    pets(tmp_path)
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:200])
    dataset = load_dataset(tmp_path, streaming=True)
    with pytest.raises(DataError, match=r"row 2 \(.*2.png\) cannot be read"):
        list(PreparedStream(dataset, recipe()))
    stream = PreparedStream(dataset, recipe(), on_error="skip")
    with pytest.warns(UserWarning, match="2.png"):
        assert len(list(stream)) == 5
    assert stream.skipped_count == 1


def test_streams_of_any_origin_become_canonical():
    """Labels that are words, read through a stream that decodes images on its way, shuffled anew each epoch."""
    features = datasets.Features(picture=datasets.Image(), kind=datasets.Value("string"))
    columns = {"picture": [_png(photo(i)) for i in range(5)], "kind": list("cabca")}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    plain = Prepared(data.as_canonical(dataset, label_column="kind"), recipe())
    stream = data.as_canonical(dataset.to_iterable_dataset(), label_column="kind")
    assert data.class_names(stream) == ["a", "b", "c"] and [row["label"] for row in stream] == [2, 0, 1, 2, 0]
    assert stream.features == plain.dataset.cast_column("image", datasets.Image()).features
    assert all(same(item, plain[i]) for i, item in enumerate(PreparedStream(stream, recipe())))
    decoded = stream.map(lambda row: row, features=stream.features)
    assert all(same(item, plain[i]) for i, item in enumerate(PreparedStream(decoded, recipe())))
    shuffled = PreparedStream(stream.shuffle(seed=1, buffer_size=5), recipe())
    orders = []
    for epoch in (0, 1, 0):
        shuffled.set_epoch(epoch)
        orders.append([item["pixel_values"].sum().item() for item in shuffled])
    assert orders[0] == orders[2] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    outside = data.as_canonical(dataset.to_iterable_dataset(), label_column="kind", class_names=["c", "a"])
    with pytest.raises(DataError, match="row 2: label 'b' is not one of the 2 classes"):
        list(PreparedStream(outside, recipe()))


# --- bad input ends in a sentence with the file or the field


def test_a_truncated_image_is_refused_or_skipped_and_counted(tmp_path):
    pets(tmp_path)
    whole = (tmp_path / "4.png").read_bytes()
    (tmp_path / "4.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "masks/1.png").write_bytes(b"not an image")
    dataset = load_dataset(tmp_path)
    prepared = Prepared(dataset, recipe())
    with pytest.raises(DataError, match=r"^row 4 \(.*4.png\) cannot be read as an image \(.*truncated.*\)$"):
        prepared[4]
    with pytest.raises(DataError, match=r"^the mask .*masks/1.png of row 1 \(.*1.png\) cannot be read"):
        prepared[1]
    loader = DataLoader(torch.utils.data.Subset(prepared, [4]), num_workers=1, collate_fn=collate)
    with pytest.raises(DataError, match=r"^row 4 [^\n]*$"):  # one sentence also from a worker
        list(loader)
    kept = Prepared(dataset, recipe(), on_error="skip", progress=False)
    assert [row for row, _ in kept.skipped] == [1, 4] and kept.skipped_count == 2 and len(kept) == 4
    assert "4.png" in kept.skipped[1][1]
    assert [int(kept[i]["index"]) for i in range(4)] == [0, 2, 3, 5]


def test_nothing_readable_is_refused(tmp_path):
    pets(tmp_path, n=2)
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="none of the 2 images can be read"):
        Prepared(load_dataset(tmp_path), recipe(), on_error="skip", progress=False)


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path):
    pets(tmp_path)
    Image.new("L", (70, 90)).save(tmp_path / "masks/3.png")
    with pytest.raises(DataError, match=r"masks/3.png of row 3 \(.*3.png\) is 70x90 but its image is 90x70"):
        Prepared(load_dataset(tmp_path), recipe())[3]


def test_labels_outside_the_classes_are_refused(tmp_path):
    pets(tmp_path / "train")
    pets(tmp_path / "test", names=("cat", "emu"))
    with pytest.raises(
        DataError, match=r"metadata.jsonl line 2: label 'emu' is not one of the 3 classes \(ant, cat, dog\)"
    ):
        load_dataset(tmp_path, "test")
    with pytest.raises(DataError, match="line 2: label 'dog' is not one of the 2 classes"):
        load_dataset(tmp_path, class_names=["ant", "cat"])
    with pytest.raises(DataError, match=r"row 1 \(.*1.png\): label 'dog' is not one of the 2 classes"):
        Prepared(load_dataset(tmp_path), recipe(), class_names=["ant", "cat"])
    lines = [{"file_name": "a.png", "label": 5}]
    write_folder(tmp_path / "numbers", lines)
    with pytest.raises(DataError, match="label 5 is not one of the 2 classes"):
        load_dataset(tmp_path / "numbers", class_names=["ant", "cat"])


def test_an_unlabelled_row_is_refused_by_number():
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a"]))
    dataset = datasets.Dataset.from_dict({"image": [_png(photo())] * 2, "label": [0, -1]}, features=features)
    with pytest.raises(DataError, match="row 1: label is -1, which says that the class is not known"):
        Prepared(dataset, recipe())


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(DataError, match="folder .* is empty"):
        load_dataset(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="nowhere' is not a folder that exists"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="'no-one/nothing' cannot be read, from a folder or from the Hub"):
        load_dataset("no-one/nothing")


def test_bad_metadata_lines(tmp_path):
    pets(tmp_path)
    good = (tmp_path / "metadata.jsonl").read_text()
    photo().save(tmp_path / "new.png")

    def refused(line, message):
        line = line.replace("1.png", "new.png")
        (tmp_path / "metadata.jsonl").write_text(good + line + "\n")
        with pytest.raises(DataError, match=message):
            load_dataset(tmp_path)

    refused('{"file_name": "gone.png", "label": "cat"}', r"metadata.jsonl line 7: file_name 'gone.png' is not a file")
    refused(
        '{"file_name": "1.png", "label": "cat", "mask_file_name": "m.png"}',
        "line 7: mask_file_name 'm.png' is not a file",
    )
    refused('{"file_name": "1.png"', "line 7 is not JSON")
    refused("[1, 2]", "line 7 is not a JSON object")
    refused('{"label": "cat"}', "line 7 has no field 'file_name'")
    refused('{"file_name": "1.png"}', "line 7 has no 'label': it has file_name")
    refused('{"file_name": "1.png", "label": null}', "line 7 has no 'label'")
    for box in ("[1, 2, 3]", "[1, 2, -3, 4]", '"1 2 3 4"', "[[1, 2, 3, 4], 5]", '["a", 2, 3, 4]'):
        refused(f'{{"file_name": "1.png", "label": "cat", "bbox": {box}}}', "line 7: bbox .* is not")


def test_metadata_that_is_not_what_its_name_says(tmp_path):
    pets(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "\xff.png"}')
    with pytest.raises(DataError, match="metadata.jsonl is not UTF-8 text .* at byte 15"):
        load_dataset(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="metadata.parquet is not a readable parquet file"):
        load_dataset(tmp_path)


def test_missing_splits_and_columns(tmp_path):
    pets(tmp_path / "train", n=3)
    with pytest.raises(DataError, match="no split 'test': it has train"):
        load_dataset(tmp_path, "test")
    with pytest.raises(DataError, match="line 1 has no 'breed': it has file_name, label"):
        load_dataset(tmp_path, label_column="breed")
    with pytest.raises(DataError, match="line 1 has no field 'photo'"):
        load_dataset(tmp_path, image_column="photo")
    (tmp_path / "train" / "metadata.jsonl").unlink()
    with pytest.raises(DataError, match="0.png lies in no class folder"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mean": None}, "lacks mean"),
        ({"std": [1, 2]}, "std must have 3"),
        ({"input_size": [1, 64, 64]}, "input_size must begin with 3"),
        ({"crop_pct": 0}, "crop_pct must be in"),
        ({"interpolation": "cubic"}, "interpolation 'cubic' is not one of .*bicubic"),
        ({"crop_mode": "border"}, "crop_mode 'border' is not one of center, squash"),
    ],
)
def test_bad_preprocessing_is_refused(change, message):
    given = {k: v for k, v in (recipe() | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        Transform(given)


def test_bad_options_are_refused(tmp_path):
    dataset = load_dataset(pets(tmp_path, n=2))
    with pytest.raises(ValueError, match="augment 'strong' is not one of default, jitter, none"):
        Prepared(dataset, recipe(), train=True, augment="strong")
    with pytest.raises(ValueError, match="on_error 'ignore' is not one of raise, skip"):
        Prepared(dataset, recipe(), on_error="ignore")
    with pytest.raises(DataError, match="no image column"):
        Prepared(dataset.rename_column("image", "picture"), recipe())
    with pytest.raises(DataError, match="'label' does not hold classes"):
        Prepared(dataset.cast_column("label", datasets.Value("int64")), recipe())


def test_a_batch_has_no_boxes_and_void_where_an_item_lacks_them():
    bare, masked = Transform(recipe())(photo()), Transform(recipe())(photo(), None, [[1, 2, 30, 40]])
    mixed = collate([bare, masked])
    assert set(mixed) == {"pixel_values", "mask", "boxes"} and set(collate([bare, bare])) == {"pixel_values"}
    assert (mixed["mask"][0] == 255).all() and torch.equal(mixed["mask"][1], masked["mask"])
    assert [len(boxes) for boxes in mixed["boxes"]] == [0, 1], "boxes of one image are not lost for lack of another's"
    assert set(collate([masked, masked])) == {"pixel_values", "mask", "boxes"}


def test_rows_without_mask_or_boxes_go_without(tmp_path):
    lines = [{"file_name": f"{i}.png", "label": "a"} for i in range(3)]
    lines[1]["mask_file_name"], lines[2]["bbox"] = "masks/1.png", [[20, 10, 40, 30], [0, 0, 5, 5]]
    prepared = Prepared(load_dataset(write_folder(tmp_path, lines)), recipe((70, 70), crop_pct=1.0))
    assert ["mask" in prepared[i] for i in range(3)] == [False, True, True]
    assert ["boxes" in prepared[i] for i in range(3)] == [False, False, True]
    assert prepared[2]["boxes"].tolist() == [[10, 10, 50, 40]]  # the centre crop takes off 10 columns a side


@pytest.mark.parametrize(
    "given, sentence",
    [
        (3, r"cannot be read as an image \(int is none: give a path, bytes, a PIL image or a uint8 array"),
        ([photo(), photo()], "list is none: give a path, .*, one at a time"),
        (torch.zeros(3, 8, 8), "Tensor is none: give a path"),
        (np.zeros((8, 8, 3), np.float32), r"an array of float32, \(8, 8, 3\): it must be uint8, \(H, W, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"an array of uint8, \(3, 8, 8\)"),
        (Image.new("RGB", (0, 5)), "it has no pixels, 0 x 5"),
    ],
)
def test_what_is_no_picture_is_told_what_would_be(given, sentence):
    with pytest.raises(DataError, match=sentence):
        data.read_image(given)


def test_an_array_of_bytes_is_a_picture():
    pixels = np.asarray(photo())
    assert (np.asarray(data.read_image(pixels)) == pixels).all()
    assert (np.asarray(data.read_image(pixels[..., 0])) == pixels[..., :1]).all()


def test_items_of_numbers_make_a_batch():
    """As the default collate functions of torch and transformers take them."""
    items = [{"pixel_values": torch.zeros(3, 8, 8), "labels": i, "weight": 0.5, "hot": [0, 1]} for i in range(2)]
    batch = collate(items)
    assert batch["labels"].tolist() == [0, 1] and batch["labels"].dtype == torch.int64
    assert batch["weight"].dtype == torch.float32 and batch["hot"].shape == (2, 2)


@pytest.mark.parametrize(
    "name, values, sentence",
    [
        (
            "pixel_values",
            [torch.zeros(3, 8, 8), torch.zeros(3, 6, 8)],
            r"several sizes, \(3, 8, 8\) and \(3, 6, 8\); ar.data.pr",
        ),
        ("mask", [torch.zeros(1, 8, 8), torch.zeros(1, 4, 4)], r"mask of the items of a batch are of several sizes"),
        ("labels", ["cat", "dog"], "labels of an item is 'cat', and must be a tensor or numbers .labels: the index"),
        ("labels", [0, None], "labels of an item is None"),
    ],
)
def test_items_that_make_no_batch(name, values, sentence):
    items = [{"pixel_values": torch.zeros(3, 8, 8), "labels": 0, name: value} for value in values]
    with pytest.raises(DataError, match=sentence):
        collate(items)
