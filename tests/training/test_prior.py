"""A fresh classifier for several labels starts at the class prior; a trained one never does."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch

import attention_refine as ar
from attention_refine.training import TrainingConfig, TrainingError
from attention_refine.training.prior import start_at_prior

NET = "test_resnet.r160_in1k"


class Several(torch.utils.data.Dataset):
    """Eight images: class 0 on all, 1 on two, 2 on none."""

    labels = [torch.tensor([1.0, float(row < 2), 0.0]) for row in range(8)]

    def __len__(self):
        return 8

    def __getitem__(self, row):
        return {"pixel_values": torch.randn(3, 64, 64), "labels": self.labels[row], "index": torch.tensor(row)}


class OneClass(Several):
    labels = [row % 3 for row in range(8)]


def fresh(head=None, net=None, **options):
    torch.manual_seed(0)
    return ar.wrap(net or timm.create_model(NET), head=head, **options)


def prior(model, dataset=None, **options) -> bool:
    return start_at_prior(model, dataset or Several(), TrainingConfig(**options))


def classifier(model):
    return model.backbone.net.get_classifier()


@pytest.mark.parametrize("head", [None, "abn", "brnpa"])
def test_a_fresh_classifier_predicts_the_frequencies(head):
    model = fresh(head, num_labels=3)
    drawn = classifier(model).weight.detach().clone()
    assert prior(model)
    odds = [8.5 / 0.5, 2.5 / 6.5, 0.5 / 8.5]
    assert torch.allclose(classifier(model).bias, torch.tensor([math.log(each) for each in odds]))
    assert torch.equal(classifier(model).weight, 0.1 * drawn)
    share = model.eval()(torch.randn(4, 3, 64, 64)).logits.sigmoid().mean(0)
    assert torch.allclose(share, torch.tensor([each / (1 + each) for each in odds]), atol=0.05)


def test_what_was_trained_loaded_or_kept_is_left_alone(tmp_path):
    trained = fresh(num_labels=3)
    with torch.no_grad():
        classifier(trained).weight[0, 0] += 1e-3
    own = fresh(net=timm.create_model(NET, num_classes=3))
    again = fresh(num_labels=3, net=timm.create_model(NET, num_classes=3))
    saved = fresh(num_labels=3)
    saved.save_pretrained(tmp_path)
    done = fresh(num_labels=3)
    assert prior(done)
    for model in (trained, own, again, ar.load(str(tmp_path)), done):
        before = copy.deepcopy(classifier(model).state_dict())
        assert not prior(model)
        assert all(torch.equal(value, before[name]) for name, value in classifier(model).state_dict().items())


def test_fresh_is_known_by_name_and_by_count():
    assert fresh(net=NET, pretrained=False).drawn_classifier is not None, "every weight is fresh"
    assert fresh(num_labels=5).drawn_classifier is not None
    assert fresh(num_labels=1000).drawn_classifier is None, "the network's own classes"


def test_one_class_an_image_and_the_option_off():
    for options in ({"class_prior": False}, {"dataset": OneClass()}):
        model = fresh(num_labels=3)
        before = classifier(model).weight.detach().clone()
        assert not prior(model, **options)
        assert torch.equal(classifier(model).weight, before)


def test_asked_for_it_is_done_or_refused():
    assert prior(fresh(net=timm.create_model(NET, num_classes=3)), class_prior=True)
    with pytest.raises(TrainingError, match="class_prior=True .* has no list of several labels an image"):
        prior(fresh(num_labels=3), OneClass(), class_prior=True)


def test_finetune_starts_there(tmp_path):
    config = TrainingConfig(
        output_dir=str(tmp_path), epochs=1, batch_size=4, progress=False, learning_rate=1e-9, weight_decay=0.0
    )
    with_prior, without = fresh(num_labels=3), fresh(num_labels=3)
    first = ar.finetune(with_prior, Several(), config).history[0]["train/task"]
    config = TrainingConfig(**{**config.to_dict(), "class_prior": False, "overwrite": True})
    assert first < ar.finetune(without, Several(), config).history[0]["train/task"] - 0.2
    assert classifier(with_prior).bias[0] > 2
