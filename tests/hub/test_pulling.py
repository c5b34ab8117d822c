"""Pulling: from the stand-in, a revision, a gate, the cache; what is fetched, what is not, and what never loads."""

from __future__ import annotations

import re

import pytest
import torch
from stand_in import READ_TOKEN, sha256

import attention_refine as ar
from attention_refine.hub import pull
from attention_refine.inspection import describe

NAME = "user/model"


@pytest.fixture
def there(hub, model):
    model.push_to_hub(NAME)
    hub.log.clear()
    return hub.repos[NAME]


def refused(*said, name=NAME, **options):
    with pytest.raises(ar.CheckpointError) as error:
        ar.load(name, **options)
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in said), message
    return message


# what is given ------------------------------------------------------------------------------------------------------


def test_a_pull_gives_the_pushed_model_its_labels_and_its_card(there, model, images, same):
    loaded = ar.load(NAME)
    same(loaded, model, images)
    assert loaded.labels == model.labels and loaded.preprocessing == model.preprocessing and not loaded.training
    assert loaded.card == there.at("main").files["README.md"].decode()
    assert ar.RefinedModel.from_pretrained(NAME).labels == model.labels


def test_config_and_header_are_judged_before_a_weight_is_fetched(hub, there):
    ar.load(NAME)
    order = [line.split()[0] + " " + line.rsplit("/", 1)[-1] for line in hub.log]
    assert order.index("GET config.json") < order.index("GET model.safetensors")
    seen = zip(hub.headers_seen[-len(hub.log) :], hub.log)
    ranges = [headers.get("range") for headers, line in seen if re.match("GET .*/model.safetensors$", line)]
    assert ranges[0] == "bytes=0-100000"


def test_a_second_pull_fetches_nothing(hub, there):
    ar.load(NAME)
    hub.log.clear()
    ar.load(NAME)
    assert not [
        line for line in hub.log if line.startswith("GET") and "/resolve/" in line and not line.endswith(".safetensors")
    ]
    assert len(hub.asked("GET .*safetensors")) == 1  # its header


def test_offline_asks_nothing(hub, there, model, images, same, monkeypatch):
    from huggingface_hub import constants

    refused("cannot be reached", "cache does not hold it", local_files_only=True)
    ar.load(NAME)
    hub.log.clear()
    same(ar.load(NAME, local_files_only=True), model, images)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    same(ar.load(NAME), model, images)
    assert not hub.log


@pytest.mark.parametrize("kind", [503, "drop"])
def test_a_hub_that_stays_away_leaves_what_the_cache_has(hub, there, model, images, same, kind, caplog):
    hub.fail(".", kind, times=100)
    refused("the Hub")
    hub.faults.clear()
    ar.load(NAME)
    hub.fail(".", kind, times=100)
    same(ar.load(NAME), model, images)
    assert "taken from the cache" in caplog.text


def test_a_revision_by_branch_commit_and_pull_request(hub, there, model, images, same):
    first = there.refs["main"]
    other = ar.load(NAME)
    other.labels[0] = "another"
    other.push_to_hub(NAME)
    there.refs["refs/pr/1"] = there.refs["main"]
    assert ar.load(NAME).labels[0] == "another"
    assert ar.load(f"{NAME}@{first}").labels[0] == model.labels[0]
    assert ar.load(NAME, revision=first[:40]).labels[0] == model.labels[0]
    assert ar.load(f"{NAME}@refs/pr/1").labels[0] == "another"
    same(ar.load(f"{NAME}@{first}", local_files_only=True), model, images)


def test_private_and_gated(hub, there, model, images, same, monkeypatch):
    there.private = True
    same(ar.load(NAME, token=READ_TOKEN), model, images)
    monkeypatch.delenv("HF_TOKEN")
    refused("no repo 'user/model', or it is private", "hf auth login", cache_dir="elsewhere")
    there.private, there.gated = False, True
    refused("is gated: ask for access on its page", token=READ_TOKEN, cache_dir="elsewhere")
    hub.members.add(NAME)
    same(ar.load(NAME, token=READ_TOKEN), model, images)


def test_a_token_nobody_knows(hub, there):
    refused("does not accept the token", "401", token="hf_unknown")


def test_a_cache_of_ones_own(there, tmp_path):
    ar.load(NAME, cache_dir=tmp_path / "mine")
    assert (tmp_path / "mine" / "models--user--model").is_dir() and not (tmp_path / "cache").exists()


def test_sharded(hub, model, images, same, tmp_path):
    model.push_to_hub(NAME, max_shard_size=20_000)
    loaded = ar.load(NAME)
    same(loaded, model, images)
    pull(NAME, tmp_path / "copy")
    same(ar.load(tmp_path / "copy"), model, images)
    same(ar.load(NAME, local_files_only=True), model, images)
    assert "shards" in describe(NAME)


def test_pull_copies_what_is_checked_and_replaces_what_was_there(there, model, images, same, tmp_path):
    folder = tmp_path / "copy"
    model.save_pretrained(folder, max_shard_size=20_000)
    (folder / "mine.txt").write_text("mine")
    assert pull(NAME, folder) == folder
    assert {path.name for path in folder.iterdir()} == {
        "mine.txt", "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    same(ar.load(folder), model, images)


def test_inspect_reads_the_header_alone(hub, there):
    said = describe(NAME)
    assert "abn" in said and "Bengal cat" in said and "ResNetForImageClassification" in said
    assert hub.asked("GET .*safetensors") and not hub.asked("HEAD .*safetensors")
    assert len(hub.asked("GET .*safetensors")) == 1


# what is wrong ------------------------------------------------------------------------------------------------------


def test_no_such_repo_revision_or_file(hub, there):
    refused("'user/other' is no folder here", "no repo 'user/other'", name="user/other")
    refused("has no revision 'v9'", "branch, a tag or a commit", revision="v9")
    hub.make("user/empty", {"README.md": b"nothing"})
    refused("has no config.json", name="user/empty")
    hub.make("user/half", {"config.json": there.at("main").files["config.json"]})
    refused("has no model.safetensors", name="user/half")


@pytest.mark.parametrize("status, said", [(401, "does not accept"), (403, "does not allow"), (404, "no repo")])
@pytest.mark.parametrize("match", ["GET /api/models", "GET .*safetensors", "HEAD .*config.json"])
def test_a_refusal_ends_in_one_sentence(hub, there, status, said, match):
    hub.fail(match, status, times=9)
    refused(said)


@pytest.mark.parametrize("match", ["GET /api/models", "GET .*config.json", "GET .*safetensors"])
@pytest.mark.parametrize("kind", [429, 500, "drop"])
def test_a_busy_hub_is_asked_again(hub, there, match, kind, model, images, same):
    hub.fail(match, kind)
    same(ar.load(NAME), model, images)
    assert hub.pauses and len(hub.asked(match)) > 1


@pytest.mark.parametrize("kind", ["truncate", "slow"])
def test_a_body_that_breaks_off_or_stalls_is_fetched_to_its_end(hub, there, kind, model, images, same, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    hub.fail("GET .*/resolve/.*(safetensors|config.json)", kind, times=2)
    same(ar.load(NAME), model, images)


def test_a_file_that_stays_cut_short_is_never_loaded(hub, there):
    hub.fail("GET .*safetensors", "truncate", times=1000)
    with pytest.raises(ar.CheckpointError):
        ar.load(NAME)
    refused("cache", local_files_only=True)


def test_damage_on_the_way_is_seen_deleted_and_healed(hub, there, model, images, same):
    hub.fail("GET .*safetensors", "corrupt", times=2)  # the header's bytes, whose last is not read, and the file's
    refused("model.safetensors does not match its checksum", "deleted", "load it again")
    hub.faults.clear()
    same(ar.load(NAME), model, images)


def test_damage_in_the_cache_is_seen_offline_too(hub, there, tmp_path):
    ar.load(NAME)
    blob = next(path for path in (tmp_path / "cache").rglob("blobs/*") if len(path.name) == 64)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    refused("does not match its checksum", local_files_only=True)
    assert not blob.exists()
    assert sha256(hub.repos[NAME].at("main").files["model.safetensors"]) == blob.name
    ar.load(NAME)


def test_a_push_in_the_middle_of_a_pull_mixes_nothing(hub, there, monkeypatch, model, images):
    from attention_refine.hub import pulling

    real = pulling._named_snapshot

    def overtaken(source, commit):
        files = dict(there.at("main").files)
        files["config.json"] = files["config.json"].replace(b"Bengal cat", b"something else")
        there.commit("main", "meanwhile", files)
        return real(source, commit)

    monkeypatch.setattr(pulling, "_named_snapshot", overtaken)
    loaded = ar.load(NAME)
    assert loaded.labels[0] == "Bengal cat"
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)
