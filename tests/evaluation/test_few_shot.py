"""Embeddings, episodes and retrieval against loops, on vectors whose answer is known and on models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import BY_NAME
from PIL import ImageColor
from torch import nn

import attention_refine as ar
from attention_refine import report
from attention_refine.cli import main
from attention_refine.evaluation.embeddings import embed_dataset, similarities
from attention_refine.evaluation.fewshot import draw_episodes, episode_accuracy
from attention_refine.evaluation.retrieval import rank_matches
from attention_refine.report.matches import GAP, QUERY, RIGHT, SIDE, WRONG

CASE = BY_NAME["resnet18"]
SMALL = {"input_size": [3, 64, 64]}


class Known(nn.Module):
    """Its images are their own embeddings."""

    preprocessing = None

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def embed(self, pixel_values):
        return pixel_values.flatten(1) * self.scale


class Vectors(torch.utils.data.Dataset):
    """Items whose pixels are the given vectors."""

    def __init__(self, vectors, labels):
        self.vectors, self.labels = vectors, labels

    def __len__(self):
        return len(self.vectors)

    def __getitem__(self, index):
        return {"pixel_values": self.vectors[index].view(-1, 1, 1), "labels": self.labels[index], "index": index}


def clusters(classes: int = 7, images: int = 9, spread: float = 0.4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(classes, 3, generator=generator)
    labels = torch.arange(classes).repeat(images)
    return centres[labels] + spread * torch.randn(len(labels), 3, generator=generator), labels


# embeddings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "efficientnet", "convnext", "vit-token", "hf-swin"])
@pytest.mark.parametrize("head", [None, "abn"])
def test_the_embedding_is_what_the_classifier_is_given(name, head):
    case = BY_NAME[name]
    model, images = case.wrap(head), case.images()
    with torch.no_grad():
        vectors, logits = model.embed(images), model(images).logits
    layer = [m for m in model.backbone.net.modules() if isinstance(m, nn.Linear) and m.out_features == logits.shape[1]][
        -1
    ]
    torch.testing.assert_close(layer(vectors), logits)


@pytest.mark.parametrize("head", ["brnpa", "bilinear"])
def test_the_embedding_of_parts_is_the_parts_side_by_side(head):
    model, images = CASE.wrap(head), CASE.images()
    with torch.no_grad():
        vectors = model.embed(images)
        pooled, _, _ = model.head(model.backbone.features(images).grid)
    assert vectors.shape == (3, 3 * 128) and torch.equal(vectors.view(3, 3, 128), pooled.vectors)
    assert model.embed(images).requires_grad


def test_what_has_no_embedding_says_so():
    with pytest.raises(ValueError, match="an embedding for each: wrap it with maps='shared'"):
        CASE.wrap(ar.AttentionBranch(maps="per_class")).embed(CASE.images())
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="Sequential has no linear classifier on one vector an image"):
        ar.wrap(net, preprocessing={"input_size": [3, 32, 32]}).embed(torch.zeros(1, 3, 32, 32))


def test_a_dataset_is_embedded_in_order_and_whatever_the_batch():
    model = CASE.wrap("brnpa").train()
    dataset = ar.data.load_dataset("shapes", "test").select(range(7))
    vectors, labels = embed_dataset(model, dataset, batch_size=3, progress=False)
    alone, _ = embed_dataset(model, dataset, batch_size=1, progress=False)
    assert vectors.shape == (7, 384) and labels.tolist() == list(dataset["label"]) and model.training
    torch.testing.assert_close(vectors, alone, rtol=0, atol=1e-5)


# few-shot ------------------------------------------------------------------------------------------------------------


def nearest(vectors, shots, distance):
    """One episode in loops: the share of queries whose nearest mean of examples is their class's."""
    right, total = 0, 0
    vectors = vectors.double().numpy()
    means = [each[:shots].mean(0) for each in vectors]

    def far(a, b):
        if distance == "euclidean":
            return sum((x - y) ** 2 for x, y in zip(a, b))
        return -sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    for label, each in enumerate(vectors):
        for query in each[shots:]:
            distances = [far(query, mean) for mean in means]
            right += distances.index(min(distances)) == label
            total += 1
    return right / total


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("shots", [1, 4])
def test_episodes_against_loops(distance, shots):
    vectors, labels = clusters(spread=1.0)
    dataset = Vectors(vectors, labels)
    found = ar.few_shot(
        Known(), dataset, ways=4, shots=shots, queries=3, episodes=20, distance=distance, progress=False, batch_size=16
    )
    episodes = draw_episodes(labels, 4, shots + 3, 20, 0)
    expected = [nearest(vectors[rows], shots, distance) for rows in episodes]
    torch.testing.assert_close(found.episodes, torch.tensor(expected))
    assert found.accuracy.value == pytest.approx(np.mean(expected))
    assert found.accuracy.low <= found.accuracy.value <= found.accuracy.high
    assert f"4-way {shots}-shot" in str(found)


def test_episodes_hold_different_images_of_the_right_classes_and_follow_the_seed():
    _, labels = clusters()
    one, same, other = (draw_episodes(labels, 5, 6, 30, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, same)) and not all(torch.equal(a, b) for a, b in zip(one, other))
    for rows in one:
        assert rows.shape == (5, 6) and len(rows.unique()) == 30
        assert (labels[rows] == labels[rows[:, :1]]).all() and len(labels[rows[:, 0]].unique()) == 5


def test_separate_classes_are_told_apart_and_equal_ones_by_chance():
    centres = 10 * torch.eye(5)[:, None].expand(5, 8, 5)
    assert episode_accuracy(centres, 2) == 1
    noise = torch.randn(5, 2000, 4, generator=torch.Generator().manual_seed(0))
    assert episode_accuracy(noise, 1000).item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(ways=1), "ways must be at least 2, got 1"),
        (dict(shots=0), "shots must be at least 1, got 0"),
        (dict(queries=0), "queries must be at least 1, got 0"),
        (dict(episodes=0), "episodes must be at least 1, got 0"),
        (dict(ways=8), "7 of 7 classes have the 16 images.*it takes 8 classes"),
        (dict(distance="dot", queries=2), "distance='dot' is not one of 'cosine', 'euclidean'"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_refused(options, said):
    dataset = Vectors(*clusters(images=20))
    with pytest.raises(ValueError, match=said):
        ar.few_shot(Known(), dataset, progress=False, **options)


def test_datasets_that_cannot_be_embedded_are_refused():
    with pytest.raises(ValueError, match="the dataset is empty"):
        embed_dataset(Known(), Vectors(torch.zeros(0, 3), torch.zeros(0)), progress=False)
    several = Vectors(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="several labels an image"):
        embed_dataset(Known(), several, progress=False)


# retrieval -----------------------------------------------------------------------------------------------------------


def average_precision(query, label, gallery, labels):
    """In loops, by the cosine: the mean over the matches of the share of matches up to each; and the first's rank."""

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    order = sorted(range(len(gallery)), key=lambda j: -cosine(query, gallery[j]))
    hits, shares, first = 0, [], 0
    for rank, j in enumerate(order, start=1):
        if labels[j] == label:
            hits += 1
            shares.append(hits / rank)
            first = first or rank
    return sum(shares) / len(shares) if shares else math.nan, first


def test_ranks_against_loops():
    vectors, labels = (each.double() if each.is_floating_point() else each for each in clusters(spread=1.0))
    queries, gallery = vectors[:20], vectors[20:]
    labels[3] = 99  # a query without a match
    precision, first, _ = rank_matches(queries, labels[:20], gallery, labels[20:])
    expected = [average_precision(q, c, gallery.tolist(), labels[20:].tolist())
                for q, c in zip(queries.tolist(), labels[:20].tolist())]  # fmt: skip
    torch.testing.assert_close(precision, torch.tensor([e[0] for e in expected]).float(), equal_nan=True)
    assert first.tolist() == [e[1] for e in expected] and first[3] == 0 and precision[3].isnan()


def test_a_query_is_not_its_own_match():
    vectors, labels = clusters(spread=1.0)
    found = ar.retrieval(Known(), Vectors(vectors, labels), progress=False)
    for i in range(len(vectors)):
        rest = [j for j in range(len(vectors)) if j != i]
        expected, first = average_precision(
            vectors[i].tolist(), int(labels[i]), vectors[rest].tolist(), labels[rest].tolist()
        )
        assert found.average_precision[i].item() == pytest.approx(expected, abs=1e-5) and found.first_match[i] == first
    assert found.cmc(1) <= found.cmc(5) <= found.cmc(len(vectors)) == 1
    assert found.mean_average_precision.value == pytest.approx(found.average_precision.mean().item(), abs=1e-6)
    assert "mAP" in str(found)


def test_a_gallery_of_its_own_and_one_without_a_match():
    vectors, labels = clusters(spread=0.01)
    halves = Vectors(vectors[:30], labels[:30]), Vectors(vectors[30:], labels[30:])
    assert ar.retrieval(Known(), *halves, progress=False).mean_average_precision.value == pytest.approx(1)
    with pytest.raises(ValueError, match="no query has an image of its class to be found"):
        ar.retrieval(Known(), halves[0], Vectors(vectors[30:], labels[30:] + 50), progress=False)


def test_images_of_the_same_camera_are_passed_over_like_a_loop():
    vectors, labels = clusters(spread=1.0)
    names = ["north", "south", "gate"]
    cameras = [names[i % 3] for i in range(len(labels))]
    halves = Vectors(vectors[:20], labels[:20]), Vectors(vectors[20:], labels[20:])
    found = ar.retrieval(Known(), *halves, cameras=cameras[:20], gallery_cameras=cameras[20:], progress=False)
    alone = ar.retrieval(Known(), Vectors(vectors, labels), cameras=cameras, progress=False)
    for i in range(20):
        for result, start in ((found, 20), (alone, 0)):
            left = [j for j in range(start, len(labels))
                    if j != i and not (labels[j] == labels[i] and cameras[j] == cameras[i])]  # fmt: skip
            expected, first = average_precision(
                vectors[i].tolist(), int(labels[i]), vectors[left].tolist(), labels[left].tolist()
            )
            assert result.average_precision[i].item() == pytest.approx(expected, abs=1e-5, nan_ok=True)
            assert result.first_match[i] == first
    assert not torch.equal(
        alone.first_match, ar.retrieval(Known(), Vectors(vectors, labels), progress=False).first_match
    )


def test_the_nearest_are_kept():
    vectors, labels = clusters(classes=2, images=3, spread=1.0)
    found = ar.retrieval(Known(), Vectors(vectors, labels), distance="euclidean", progress=False)
    for i, row in enumerate(found.nearest.tolist()):
        expected = sorted((j for j in range(6) if j != i), key=lambda j: float((vectors[i] - vectors[j]).norm()))
        assert row == expected + [-1] * 5


@pytest.mark.parametrize(
    ("cameras", "gallery_cameras", "said"),
    [
        (None, [0] * 9, "cameras is missing"),
        ([0] * 54, None, "gallery_cameras is missing"),
        ([0], [0] * 9, "has 1 entries"),
    ],
)
def test_cameras_that_do_not_fit_are_refused(cameras, gallery_cameras, said):
    vectors, labels = clusters()
    halves = Vectors(vectors[:54], labels[:54]), Vectors(vectors[54:], labels[54:])
    with pytest.raises(ValueError, match=said):
        ar.retrieval(Known(), *halves, cameras=cameras, gallery_cameras=gallery_cameras, progress=False)


def test_the_matches_as_a_picture():
    shapes = ar.data.load_dataset("shapes", "validation").select(range(24))
    model = ar.wrap("resnet10t", "brnpa", pretrained=False, labels=ar.data.class_names(shapes), preprocessing=SMALL)
    found = ar.retrieval(model, shapes, progress=False)
    sheet = report.matches(model, shapes, found, count=2, shown=3)
    assert sheet.size[0] > 3 * SIDE and sheet.size[1] > 2 * 4 * SIDE, "a query and three, each over its three parts"
    query, best = shapes[0]["label"], shapes[int(found.nearest[0, 0])]["label"]
    assert sheet.getpixel((1, 1)) == ImageColor.getrgb(QUERY)
    assert sheet.getpixel((SIDE + GAP + 1, 1)) == ImageColor.getrgb(RIGHT if query == best else WRONG)
    with pytest.raises(ValueError, match="no ranked maps"):
        report.matches(ar.wrap("resnet10t", pretrained=False, preprocessing=SMALL), shapes, found)


def test_the_similarities_are_those_named():
    a, b = torch.randn(2, 3), torch.randn(4, 3)
    torch.testing.assert_close(
        similarities(a, b, "cosine"), nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    )
    torch.testing.assert_close(similarities(a, b, "euclidean"), -(a[:, None] - b[None]).square().sum(2))


def test_the_command(tmp_path, capsys):
    CASE.wrap("brnpa").save_pretrained(tmp_path / "model")
    words = ["fewshot", f"mine={tmp_path / 'model'}", "--split", "validation", "--ways", "3", "--queries", "5",
             "--episodes", "10"]  # fmt: skip
    assert main(words) == 0
    assert "mine: 3-way 1-shot" in capsys.readouterr().out
    assert main([*words[:4], "--ways", "100"]) == 1
    assert "it takes 100 classes" in capsys.readouterr().err
