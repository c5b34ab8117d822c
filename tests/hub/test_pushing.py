"""Pushing: one commit over real HTTP, and every way it can be refused, interrupted or overtaken."""

from __future__ import annotations

import json
import logging
import traceback
from functools import partial

import pytest
from stand_in import READ_TOKEN, TOKEN, sha256

import attention_refine as ar
from attention_refine.hub import Card, PushError

NAME = "user/model"


def files(hub, name=NAME, revision="main"):
    return hub.repos[name].at(revision).files


def test_a_push_is_one_commit_of_the_files_that_save_writes(hub, model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    done = model.push_to_hub(NAME, commit_message="first")
    repo = hub.repos[NAME]
    assert done.oid == repo.refs["main"] and repo.at("main").title == "first" and len(repo.commits) == 2
    assert set(files(hub)) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    for path in (tmp_path / "saved").iterdir():
        assert files(hub)[path.name] == path.read_bytes()
    assert len(hub.asked("POST .*/commit/")) == 1


def test_pushing_the_same_again_makes_no_commit(hub, model):
    first = model.push_to_hub(NAME)
    again = model.push_to_hub(NAME)
    assert again.oid == first.oid and len(hub.repos[NAME].commits) == 2 and len(hub.asked("PUT /lfs")) == 1


def test_private_branch_and_pull_request(hub, model):
    model.push_to_hub(NAME, private=True)
    assert hub.repos[NAME].private
    before = dict(files(hub))
    other = model.push_to_hub(
        NAME, revision="next", training_layers=False, commit_message="on a branch", card=Card(description="new")
    )
    assert hub.repos[NAME].at("next").title == "on a branch" and other.oid == hub.repos[NAME].refs["next"]
    asked = model.push_to_hub(NAME, create_pr=True, card=Card(description="a proposal"))
    assert (
        asked.pr_url.endswith(f"/{NAME}/discussions/1")
        and "a proposal" in files(hub, revision="refs/pr/1")["README.md"].decode()
    )
    assert files(hub) == before


def test_private_is_not_promised_for_a_public_repo(hub, model):
    hub.make(NAME)
    with pytest.raises(PushError, match="exists and is public, so nothing was sent"):
        model.push_to_hub(NAME, private=True)
    assert set(files(hub)) == {".gitattributes"}


def test_a_card_somebody_wrote_stays_unless_one_is_given(hub, model):
    hub.make(NAME, {"README.md": b"mine"})
    model.push_to_hub(NAME)
    assert files(hub)["README.md"] == b"mine"
    model.push_to_hub(NAME, card=Card(description="theirs"))
    assert b"theirs" in files(hub)["README.md"]


def test_weights_of_an_earlier_push_that_were_split_otherwise_go(hub, model):
    model.push_to_hub(NAME, max_shard_size=20_000)
    shards = [name for name in files(hub) if name.startswith("model-")]
    assert len(shards) > 1 and "model.safetensors.index.json" in files(hub)
    model.push_to_hub(NAME)
    assert "model.safetensors" in files(hub) and not any(
        name.startswith("model-") or "index" in name for name in files(hub)
    )


def test_without_create_nothing_is_made(hub, model):
    with pytest.raises(PushError, match="no repo 'user/model', or it is private.*check the name.*Nothing was changed"):
        model.push_to_hub(NAME, create=False)
    assert not hub.repos


@pytest.mark.parametrize("objective", [ar.Distillation, partial(ar.AttentionConsistency, compare="models")])
def test_a_teachers_folder_is_not_told(hub, model, tmp_path, objective):
    """A path of this machine; an id of the Hub is."""
    model.save_pretrained(tmp_path / "teacher")
    for teacher, told in ((str(tmp_path / "teacher"), "object"), ("user/teacher", "user/teacher")):
        student = ar.load(tmp_path / "teacher")
        student.add_objective(objective(teacher=teacher))
        student.push_to_hub(NAME, card=Card())
        (entry,) = json.loads(files(hub)["config.json"])["objectives"]
        assert entry["options"]["teacher"] == told
        assert str(tmp_path).encode() not in b"".join(content for content in files(hub).values())
        assert list(ar.load(NAME).objectives) == [entry["name"]]
        assert student.objectives[entry["name"]].config.teacher == teacher, "the model itself keeps it"


@pytest.mark.parametrize("name", ["model", "a/b/c", "/model", "user/", "user/mo del", "user/../x", "https://hub/x"])
def test_a_bad_id_is_refused_before_anything_else(hub, model, name):
    with pytest.raises(ValueError, match="write user/name"):
        model.push_to_hub(name)
    assert not hub.log


def test_a_model_that_could_not_be_loaded_is_not_sent(hub, model):
    import copy

    from attention_refine.backbones.spec import NotRebuildable

    broken = copy.deepcopy(model)
    next(broken.head.parameters()).data.fill_(float("nan"))
    with pytest.raises(NotRebuildable, match="holds NaN"):
        broken.push_to_hub(NAME)
    assert not hub.log


# faults ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pushed(hub, model):
    """A repo with a model in it, and another model whose push will fail."""
    model.push_to_hub(NAME)
    hub.log.clear()
    other = ar.load(NAME)
    for parameter in other.parameters():
        parameter.data.add_(0.25)
    return other, hub.repos[NAME].refs["main"]


def untouched(hub, head):
    assert hub.repos[NAME].refs["main"] == head


REFUSED = [
    ("POST .*/preupload/", 401, "does not accept the token.*Nothing was changed"),
    ("POST .*/preupload/", 403, "does not allow this.*right scope.*Nothing was changed"),
    ("POST .*/commit/", 403, "does not allow this.*right scope.*Nothing was changed"),
    ("POST .*/commit/", 412, "somebody else pushed.*nothing was changed.*load what is there"),
    ("GET .*/revision/main", 404, "no repo 'user/model'.*Nothing was changed"),
]


@pytest.mark.parametrize("match, status, said", REFUSED, ids=lambda value: str(value)[:24])
def test_a_refusal_is_one_sentence_and_changes_nothing(hub, pushed, match, status, said):
    other, head = pushed
    hub.fail(match, status)
    with pytest.raises(PushError, match=said) as error:
        other.push_to_hub(NAME)
    assert "\n" not in str(error.value)
    untouched(hub, head)


@pytest.mark.parametrize(
    "match", ["POST .*/commit/", "PUT /lfs/", "POST .*/preupload/", "GET .*/revision/main", "POST /api/repos/create"]
)
@pytest.mark.parametrize("kind", [429, 503, "drop"])
def test_a_busy_hub_is_asked_again_after_a_longer_pause_each_time(hub, pushed, match, kind):
    other, _ = pushed
    hub.fail(match, kind, times=2)
    other.push_to_hub(NAME)
    assert len(hub.asked(match)) == 3 and len(hub.repos[NAME].commits) == 3
    assert hub.pauses and hub.pauses == sorted(hub.pauses) and hub.pauses[0] >= 0.5


def test_the_pause_the_hub_asks_for_is_kept(hub, pushed):
    other, _ = pushed
    hub.fail("POST .*/commit/", 429, Retry_After="7")
    other.push_to_hub(NAME)
    assert 7.0 in hub.pauses


@pytest.mark.parametrize(
    "match, said",
    [("POST .*/commit/", "push was interrupted.*all of it or what it held before; push again"),
     ("PUT /lfs/", "the Hub failed .503.*Nothing was changed; push again")],
)  # fmt: skip
def test_a_hub_that_stays_away_leaves_the_revision_whole(hub, pushed, match, said, model, images, same):
    other, head = pushed
    hub.fail(match, 503, times=100)
    with pytest.raises(PushError, match=said):
        other.push_to_hub(NAME)
    untouched(hub, head)
    hub.faults.clear()
    same(ar.load(NAME), model, images)
    other.push_to_hub(NAME)
    same(ar.load(NAME), other, images)


def test_a_commit_that_arrived_unanswered_is_not_made_twice(hub, pushed, images, same):
    other, head = pushed
    hub.fail("POST .*/commit/", "drop after")
    done = other.push_to_hub(NAME)
    assert len(hub.repos[NAME].commits) == 3 and done.oid == hub.repos[NAME].refs["main"] != head
    same(ar.load(NAME), other, images)


def test_a_pull_request_is_not_opened_twice(hub, pushed):
    other, head = pushed
    hub.fail("POST .*/commit/", "drop after")
    with pytest.raises(PushError, match="interrupted"):
        other.push_to_hub(NAME, create_pr=True)
    assert [name for name in hub.repos[NAME].refs if "pr" in name] == ["refs/pr/1"]
    untouched(hub, head)


def test_a_push_overtaken_by_another_is_refused(hub, pushed, monkeypatch):
    other, _ = pushed
    from huggingface_hub import HfApi

    real = HfApi.preupload_lfs_files

    def overtaken(api, *args, **options):
        repo = hub.repos[NAME]
        if len(repo.commits) == 2:
            repo.commit("main", "theirs", {**repo.at("main").files, "theirs.txt": b"theirs"})
        return real(api, *args, **options)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", overtaken)
    with pytest.raises(PushError, match="somebody else pushed"):
        other.push_to_hub(NAME)
    assert hub.repos[NAME].at("main").title == "theirs"


def test_parent_commit_must_be_the_last(hub, pushed):
    other, head = pushed
    with pytest.raises(PushError, match="parent_commit is not its last"):
        other.push_to_hub(NAME, parent_commit="0" * 40)
    untouched(hub, head)
    other.push_to_hub(NAME, parent_commit=head)
    assert hub.repos[NAME].refs["main"] != head


# tokens ---------------------------------------------------------------------------------------------------------------


def everything_said(error) -> str:
    return "".join(traceback.format_exception(error))


def test_a_token_that_may_only_read(hub, model):
    with pytest.raises(PushError, match="403") as error:
        model.push_to_hub(NAME, token=READ_TOKEN)
    assert READ_TOKEN not in everything_said(error.value)


def test_no_token(hub, model, logged_out):
    with pytest.raises(PushError, match="hf auth login"):
        model.push_to_hub(NAME)


def test_tokens_are_in_no_file_log_or_exception(hub, model, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    card = Card(command=f"attention-refine push x --token {TOKEN}", config={"token": TOKEN}, description=TOKEN)
    model.push_to_hub(NAME, token=TOKEN, card=card, commit_description=f"with {TOKEN}")
    ar.load(NAME, token=TOKEN)
    sent = [header.get("authorization") for header in hub.headers_seen]
    assert f"Bearer {TOKEN}" in sent
    for content in files(hub).values():
        assert TOKEN.encode() not in content
    assert TOKEN not in caplog.text
    caplog.clear()
    hub.fail("POST .*/commit/", "echo")  # below, the HTTP client's own debug log repeats what the server said
    model.labels[0], kept = "renamed", model.labels[0]
    try:
        with pytest.raises(PushError) as error:
            model.push_to_hub(NAME, token=TOKEN)
    finally:
        model.labels[0] = kept
    hub.fail("GET .*/revision/main|GET /api/models/user/model$", "echo")
    with pytest.raises(ar.CheckpointError) as pulled:
        ar.load(NAME, token=TOKEN)
    said = everything_said(error.value) + everything_said(pulled.value) + "".join(capfd.readouterr())
    said += "".join(
        r.getMessage() for r in caplog.records if r.name.startswith(("attention_refine", "huggingface_hub"))
    )
    assert TOKEN not in said
    assert "hf_" not in json.dumps(json.loads(files(hub)["config.json"]))
    assert sha256(files(hub)["model.safetensors"]) in hub.lfs
