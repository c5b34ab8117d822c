"""Tiny sets in the real format of the published ones: the files, the numbering and the folders of their archives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (20, 16)  # width, height
BIRDS = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]


def photograph(path: Path, level: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), level, np.uint8)).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def people(path: Path) -> None:
    """A mask of CUB: of 5 people 0 to 5 drew a column as bird."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(SIZE[::-1], np.uint8)
    for number in range(6):
        pixels[4:10, 2 + number] = 51 * number
    Image.fromarray(pixels).save(path)


def cub_2011(root: Path) -> Path:
    here = root / "CUB_200_2011"
    names = [f"{bird}/{bird[4:]}_000{n}_{n}.jpg" for bird in BIRDS for n in (1, 2)]
    for n, name in enumerate(names, 1):
        photograph(here / "images" / name, 40 * n)
    text(here / "images.txt", *(f"{n} {name}" for n, name in enumerate(names, 1)))
    text(here / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 2")
    text(here / "train_test_split.txt", "1 1", "2 0", "3 1", "4 0")
    text(here / "bounding_boxes.txt", *(f"{n} {n}.0 2.0 6.0 5.0" for n in range(1, 5)))
    text(here / "classes.txt", *(f"{n} {bird}" for n, bird in enumerate(BIRDS, 1)))
    people(root / "segmentations" / names[0].replace(".jpg", ".png"))  # segmentations.tgz unpacks beside the set
    return here


def cub_2010(root: Path) -> Path:
    names = [f"{bird}/{bird[4:]}_000{n}_29501{n}.jpg" for bird in BIRDS for n in (1, 2)]
    seg = np.zeros(SIZE[::-1], np.uint8)
    seg[3:9, 5:12] = 1
    for n, name in enumerate(names, 1):
        photograph(root / "images" / name, 40 * n)
        file = root / "annotations-mat" / name.replace(".jpg", ".mat")
        file.parent.mkdir(parents=True, exist_ok=True)
        savemat(file, {"bbox": {"left": 5.0, "top": 3.0, "right": 12.0, "bottom": 9.0}, "seg": seg})
    text(root / "lists" / "train.txt", names[0], names[2])
    text(root / "lists" / "test.txt", names[1], names[3])
    text(root / "lists" / "classes.txt", *BIRDS)
    return root


def waterbirds(root: Path) -> Path:
    here = root / "waterbird_complete95_forest2water2"
    rows = [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 0, 2), (0, 0, 2)]  # y, place, split
    table = ["img_id,img_filename,y,split,place,place_filename"]
    for n, (y, place, split) in enumerate(rows, 1):
        name = f"{BIRDS[y]}/bird_{n}.jpg"
        photograph(here / name, 30 * n)
        table.append(f"{n},{name},{y},{split},{place},/b/bamboo_forest/0000{n}.jpg")
    text(here / "metadata.csv", *table)
    people(here / "segmentations" / f"{BIRDS[0]}/bird_1.png")
    return here


def voc_object(name: str, corners: tuple[int, int, int, int], difficult: int = 0) -> str:
    sides = "".join(f"<{side}>{at}</{side}>" for side, at in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox>{part}</object>"


def annotation(path: Path, *objects: str) -> None:
    text(path, "<annotation><folder>VOC2012</folder>" + "".join(objects) + "</annotation>")


def voc(root: Path) -> Path:
    here = root / "VOCdevkit" / "VOC2012"
    objects = {
        "2008_000001": [voc_object("dog", (1, 1, 20, 16)), voc_object("person", (3, 4, 8, 9))],
        "2008_000002": [voc_object("person", (2, 2, 9, 9)), voc_object("chair", (5, 5, 8, 8), difficult=1)],
        "2008_000003": [voc_object("chair", (5, 5, 8, 8), difficult=1)],
        "2008_000004": [voc_object("aeroplane", (2, 3, 4, 5)), voc_object("aeroplane", (6, 7, 8, 9))],
    }
    for n, (name, found) in enumerate(objects.items()):
        photograph(here / "JPEGImages" / f"{name}.jpg", 30 + 40 * n)
        annotation(here / "Annotations" / f"{name}.xml", *found)
    names = list(objects)
    text(here / "ImageSets" / "Main" / "train.txt", *names[:3])
    text(here / "ImageSets" / "Main" / "val.txt", names[3])
    text(here / "ImageSets" / "Main" / "trainval.txt", *names)
    pixels = np.zeros(SIZE[::-1], np.uint8)
    pixels[3:9, 2:8] = 255
    pixels[4:8, 3:7] = 12  # a dog, and its border
    mask = Image.fromarray(pixels, "P")
    mask.putpalette([value for n in range(256) for value in (n, 255 - n, n // 2)])
    (here / "SegmentationClass").mkdir()
    mask.save(here / "SegmentationClass" / f"{names[0]}.png")
    return here


def stanford_dogs(root: Path) -> Path:
    breeds = ["n02085620-Chihuahua", "n02085782-Japanese_spaniel"]
    files = [f"{breed}/{breed.split('-')[0]}_{n}.jpg" for breed in breeds for n in (10, 11)]
    for n, name in enumerate(files):
        photograph(root / "Images" / name, 40 + 40 * n)
        annotation(root / "Annotation" / name[:-4], voc_object(name.split("-")[1], (2, 3, 11, 12)))
    for split, chosen in (("train", [0, 2]), ("test", [1, 3])):
        cells = np.empty((2, 1), object)
        cells[:, 0] = [files[n] for n in chosen]
        savemat(
            root / f"{split}_list.mat", {"file_list": cells, "annotation_list": cells, "labels": np.array([[1], [2]])}
        )
    return root


def imagenet(root: Path) -> Path:
    synsets = ["n01440764", "n01443537"]
    for n, synset in enumerate(synsets):
        photograph(root / "train" / synset / f"{synset}_{n}.JPEG", 60 + 60 * n)
    for n in (1, 2, 3):
        photograph(root / "val" / f"ILSVRC2012_val_{n:08d}.JPEG", 40 * n)
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    text(kit / "ILSVRC2012_validation_ground_truth.txt", "2", "1", "2")
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    table = [(1, synsets[1], "goldfish", 0), (2, synsets[0], "tench", 0), (3, "n01429349", "fish", 2)]
    savemat(kit / "meta.mat", {"synsets": np.array(table, kind).reshape(-1, 1)})  # numbers are not in WordNet's order
    return root


def imagenet_kaggle(root: Path) -> Path:
    here = root / "ILSVRC" / "Data" / "CLS-LOC"
    synsets = ["n01440764", "n01443537"]
    for n, synset in enumerate(synsets):
        photograph(here / "train" / synset / f"{synset}_{n}.JPEG", 60 + 60 * n)
    for n in (1, 2):
        photograph(here / "val" / f"ILSVRC2012_val_{n:08d}.JPEG", 40 * n)
    text(root / "LOC_train_solution.csv", "ImageId,PredictionString", f"{synsets[0]}_0,{synsets[0]} 1 2 9 8 ")
    text(
        root / "LOC_val_solution.csv", "ImageId,PredictionString",
        f"ILSVRC2012_val_00000002,{synsets[0]} 1 2 9 8 {synsets[0]} 3 3 6 7 ",
        f"ILSVRC2012_val_00000001,{synsets[1]} 0 0 20 16 ",
    )  # fmt: skip
    return root


def market1501(root: Path) -> Path:
    files = {
        "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000301_01.jpg", "0007_c3s3_077419_03.jpg"],
        "query": ["0001_c1s1_001051_00.jpg", "0003_c4s6_015641_00.jpg"],
        "bounding_box_test": [
            "-1_c1s1_000401_03.jpg", "0000_c1s1_000151_01.jpg", "0001_c2s1_000301_00.jpg", "0003_c1s6_015971_02.jpg.jpg",
        ],
    }  # fmt: skip
    for folder, names in files.items():
        for n, name in enumerate(names):
            photograph(root / folder / name, 40 + 20 * n, (64, 128))
        (root / folder / "Thumbs.db").write_bytes(b"\0")
    return root


def svhn(root: Path) -> Path:
    for split, labels in (("train", [1, 10, 9]), ("test", [10, 2])):
        pixels = np.zeros((32, 32, 3, len(labels)), np.uint8)
        for n in range(len(labels)):
            pixels[..., n] = 50 * (n + 1)
        pixels[0, 1, 2, 0] = 7
        savemat(root / f"{split}_32x32.mat", {"X": pixels, "y": np.array(labels, np.uint8)[:, None]})
    return root


def records(path: Path, *labels: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b""
    for n, codes in enumerate(labels):
        planes = np.zeros((3, 32, 32), np.uint8)
        planes[0], planes[1], planes[2] = 10 + n, 100, 200
        planes[0, 0, 1] = 77  # red, the first row, the second pixel
        content += bytes(codes) + planes.tobytes()
    path.write_bytes(content)


def cifar10(root: Path) -> Path:
    here = root / "cifar-10-batches-bin"
    for n in range(1, 6):
        records(here / f"data_batch_{n}.bin", (n % 2,), (2,))
    records(here / "test_batch.bin", (0,), (1,), (2,))
    text(here / "batches.meta.txt", "airplane", "automobile", "bird", "")
    return here


def cifar100(root: Path) -> Path:
    here = root / "cifar-100-binary"
    records(here / "train.bin", (0, 0), (1, 1), (0, 2))
    records(here / "test.bin", (1, 1))
    text(here / "coarse_label_names.txt", "aquatic_mammals", "fish")
    text(here / "fine_label_names.txt", "beaver", "aquarium_fish", "dolphin")
    return here


def imagenet9(root: Path) -> Path:
    here = root / "bg_challenge"
    for n, name in enumerate(("00_dog", "01_bird")):
        photograph(here / "original" / "val" / name / f"n0208593{n}_1.JPEG", 50)
        photograph(here / "mixed_same" / "val" / name / f"fg_n0208593{n}_1_bg_n0208593{n}_7.JPEG", 80)
        photograph(here / "mixed_rand" / "val" / name / f"fg_n0208593{n}_1_bg_n0144076{n}_4.JPEG", 110)
        photograph(root / "in9l" / "train" / name / f"n0208593{n}_9.JPEG", 140)
        seen = np.zeros(SIZE[::-1], bool)
        seen[2:6, 3:9] = True
        mask = here / "fg_mask" / "val" / name / f"n0208593{n}_1.npy"
        mask.parent.mkdir(parents=True)
        np.save(mask, seen)
    return here


def spawrious(root: Path) -> Path:
    here = root / "spawrious224"
    for draw in "01":
        for at, place in enumerate(
            ("beach", "desert", "dirt", "jungle", "snow")
        ):  # without mountain: O2O easy and M2M hard
            for dog in ("bulldog", "corgi", "dachshund", "labrador"):
                photograph(here / draw / place / dog / f"{place}_{dog}_{at}.png", 40 * at + 20 * int(draw))
    return here


SETS: dict[str, Callable[[Path], Path]] = {
    each.__name__: each
    for each in (
        cub_2010, cub_2011, stanford_dogs, voc, imagenet, imagenet_kaggle, cifar10, cifar100, svhn, waterbirds, spawrious,
        imagenet9, market1501,
    )
}  # fmt: skip
