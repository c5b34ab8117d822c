"""Streams of ``datasets``, WebDataset's shards among them: divided, resumed, in workers, as a dataset with a length is."""

from __future__ import annotations

import io
import tarfile

import datasets
import pytest
import torch
from training_runs import TinyModel, asked_to_end, assert_same, last_weights

from attention_refine import data, shapes
from attention_refine.data.items import Reader
from attention_refine.training import TrainingConfig, finetune
from attention_refine.training.batches import BatchOrder, evaluation_batches, step_batches
from attention_refine.training.interruption import Interrupted

PREPROCESSING = {
    "input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0,
}  # fmt: skip
NAMES = ["class 0", "class 1", "class 2"]


@pytest.fixture(scope="module")
def rows():
    made = shapes.make("train", 22, size=32)
    return datasets.Dataset.from_dict(
        {"image": [row["image"] for row in made], "label": [i % 3 for i in range(22)]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}),
    )


def stream(rows, shards=4, shuffled=True, **options):
    found = rows.to_iterable_dataset(num_shards=shards)
    found = found.shuffle(seed=3, buffer_size=5) if shuffled else found
    return data.prepare(found, PREPROCESSING, **options)


def steps(dataset, order, process=0, first_step=0, workers=0, epoch=1):
    made = step_batches(
        dataset, order, epoch, process, first_step=first_step, collate=data.collate, num_workers=workers
    )
    return [([batch["pixel_values"] for batch in batches], images) for batches, images in made]


def same(found, wanted):
    assert [images for _, images in found] == [images for _, images in wanted]
    for (ours, _), (theirs, _) in zip(found, wanted, strict=True):
        assert [len(batch) for batch in ours] == [len(batch) for batch in theirs]
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs))


def test_divided_resumed_and_in_workers_it_is_one_order(rows):
    """Of shards that are shuffled through a buffer, with augmentation."""
    whole = steps(stream(rows, train=True), BatchOrder(None, 8))
    assert [images for _, images in whole] == [8, 8, 6]
    same(steps(stream(rows, train=True), BatchOrder(None, 8), workers=3), whole)
    same(steps(stream(rows, train=True), BatchOrder(None, 8), first_step=1, workers=2), whole[1:])
    parts = [steps(stream(rows, train=True), BatchOrder(None, 2, 2, 2), each, workers=each) for each in range(2)]
    for (one, _), (left, _), (right, _) in zip(whole, *parts, strict=True):
        together = [batch for slots in zip(left, right) for batch in slots]
        assert torch.equal(torch.cat(together), one[0])
    other = steps(stream(rows, train=True), BatchOrder(None, 8), epoch=2)
    assert not torch.equal(other[0][0][0], whole[0][0][0]), "another epoch, another order"


def test_unshuffled_it_is_the_dataset_in_its_order(rows):
    plain = data.prepare(rows, PREPROCESSING)
    images = torch.cat(
        [batch for batches, _ in steps(stream(rows, shuffled=False), BatchOrder(None, 8), epoch=0) for batch in batches]
    )
    assert torch.equal(images, torch.stack([plain[row]["pixel_values"] for row in range(22)]))
    halves = [
        list(
            evaluation_batches(stream(rows, shuffled=False), 4, each, 2, seed=0, collate=data.collate, num_workers=each)
        )
        for each in range(2)
    ]
    for each, batches in enumerate(halves):
        assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(each, 22, 2))
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches]), images[each::2])


def test_a_process_decodes_its_own_share_and_a_resumed_run_none_again(rows, monkeypatch):
    decoded, load = [], Reader.load
    monkeypatch.setattr(Reader, "load", lambda self, row, where: decoded.append(where) or load(self, row, where))
    steps(stream(rows), BatchOrder(None, 4, processes=2), process=1)
    assert len(decoded) == 11
    decoded.clear()
    steps(stream(rows), BatchOrder(None, 8), first_step=2)
    assert len(decoded) == 6


def test_rows_left_out_are_the_same_for_every_process(rows):
    cells = [dict(row) for row in rows.cast_column("image", datasets.Image(decode=False))]
    for row in (2, 9):
        cells[row]["image"] = {"bytes": b"no picture", "path": None}
    broken = datasets.Dataset.from_list(cells).cast(rows.features)
    with pytest.warns(UserWarning, match="skipped: row"):
        whole = steps(stream(broken, on_error="skip"), BatchOrder(None, 8))
        parts = [
            steps(stream(broken, on_error="skip"), BatchOrder(None, 4, 2), each, workers=each) for each in range(2)
        ]
    assert [images for _, images in whole] == [8, 8, 4]
    for (one, _), (left, _), (right, _) in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([left[0], right[0]]), one[0])


def run(folder, dataset, **options):
    torch.manual_seed(3)
    config = TrainingConfig(
        output_dir=str(folder), max_steps=7, batch_size=8, learning_rate=0.02, progress=False, **options
    )
    finetune(TinyModel("batch", dropout=0.2), dataset, config)
    return last_weights(folder)


def test_a_run_on_a_stream_is_that_on_the_dataset(rows, tmp_path):
    """The rows of each epoch in the order in which the run with a length takes them."""
    run(tmp_path / "plain", data.prepare(rows, PREPROCESSING), epochs=1)

    class Ordered(torch.utils.data.IterableDataset):
        def set_epoch(self, epoch):
            order = BatchOrder(22, 8).shuffled(epoch)
            self.stream = stream(rows.select(order), shuffled=False)

        def __iter__(self):
            return iter(self.stream)

        def rows(self):
            return self.stream.rows()

        def item(self, index, row):
            return self.stream.item(index, row)

    run(tmp_path / "stream", Ordered())
    assert_same(last_weights(tmp_path / "stream"), last_weights(tmp_path / "plain"))


def test_a_stopped_run_goes_on_to_the_bit_with_other_workers(rows, tmp_path):
    whole = run(tmp_path / "whole", stream(rows, train=True))
    with pytest.raises(Interrupted), asked_to_end(5):
        run(tmp_path / "parts", stream(rows, train=True))
    assert_same(run(tmp_path / "parts", stream(rows, train=True), resume=True, num_workers=2), whole)


def test_shards_of_webdataset(rows, tmp_path):
    """As ``datasets`` reads them: a picture and a class a sample."""
    for shard in range(3):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for row in range(shard, 22, 3):
                picture = io.BytesIO()
                rows[row]["image"].save(picture, "PNG")
                for ending, content in (("png", picture.getvalue()), ("cls", str(rows[row]["label"]).encode())):
                    entry = tarfile.TarInfo(f"{row:04d}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    found = datasets.load_dataset("webdataset", data_files=str(tmp_path / "*.tar"), split="train", streaming=True)
    items = data.prepare(data.as_canonical(found), PREPROCESSING)
    assert items.class_names == ["0", "1", "2"]
    order = [row for shard in range(3) for row in range(shard, 22, 3)]
    plain = data.prepare(rows, PREPROCESSING)
    for row, item in zip(order, items, strict=True):
        assert torch.equal(item["pixel_values"], plain[row]["pixel_values"]) and int(item["labels"]) == row % 3
    whole = steps(items, BatchOrder(None, 8))
    same(steps(items, BatchOrder(None, 8), first_step=1, workers=2), whole[1:])
