"""Checkpoints of other versions: options that were renamed or went, and those that are still to come."""

import json

import pytest
import timm
import torch

import attention_refine as ar
from attention_refine.hub import migration


@pytest.fixture
def written(tmp_path):
    """A saved model, and its config to be changed."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=3).eval()
    model = ar.wrap(net, head="abn", objectives=["mining"]).eval()
    model.save_pretrained(tmp_path)

    def change(edit):
        config = json.loads((tmp_path / "config.json").read_text())
        edit(config)
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return model, change


def test_an_option_under_its_old_name_is_read_under_its_new_one(written, monkeypatch):
    model, change = written
    monkeypatch.setitem(migration.CHANGES, ("head", "abn", "kernel"), migration.renamed("map_kernel"))

    def old(config):
        options = config["head"]["options"]
        options["kernel"] = options.pop("map_kernel")

    again, pixels = ar.load(change(old)), torch.randn(2, 3, 160, 160)
    assert again.head.config == model.head.config
    with torch.no_grad():
        assert torch.equal(again(pixels).logits, model(pixels).logits)


def test_an_option_that_went_is_passed_over_only_where_it_changes_nothing(written, monkeypatch):
    model, change = written
    where = ("objective", "mining", "slope")
    monkeypatch.setitem(migration.CHANGES, where, migration.gone(10.0))
    folder = change(lambda config: config["objectives"][0]["options"].update(slope=10.0))
    assert ar.load(folder).objectives["mining"].config == model.objectives["mining"].config
    folder = change(lambda config: config["objectives"][0]["options"].update(slope=7.0))
    with pytest.raises(ValueError, match=r"config\.json: objective 'mining', option 'slope'.*7\.0.*10\.0"):
        ar.load(folder)


def test_an_option_of_a_newer_version_is_refused_by_name_with_that_version(written):
    _, change = written

    def newer(config):
        config["library_version"] = "7.3.1"
        config["head"]["options"]["sharpness"] = 2

    with pytest.raises(ValueError, match=r"head 'abn' has no option 'sharpness', which version 7\.3\.1 wrote.*upgrade"):
        ar.load(change(newer))


def test_every_change_leads_from_what_is_unknown_to_what_is_known():
    for kind, name, option in migration.CHANGES:
        registry = {"head": migration.heads, "objective": migration.objectives}[kind]
        assert option not in registry.named(name).config_class.__dataclass_fields__
