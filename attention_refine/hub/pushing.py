"""``push_to_hub``: one commit, or the repo stays as it was."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.path_redaction import without_places
from ..refined import Refined
from . import weights as stored
from .card import Card
from .checkpoint import CARD, save_pretrained
from .checksums import matches
from .config import CONFIG, for_others, to_json
from .retry import patiently, redacted, root_of, sentence, status_of, worth_another_try

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class PushError(RuntimeError):
    """The model is not on the Hub; the message says what is there now and what to do."""


def push_to_hub(
    model: Refined,
    repo_id: str,
    *,
    create: bool = True,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Push with attention_refine",
    commit_description: str | None = None,
    parent_commit: str | None = None,
    token: str | bool | None = None,
    max_shard_size: int | str = "5GB",
    training_layers: bool = True,
    card: Card | None = None,
) -> CommitInfo:
    """Send the model to the Hub as one commit.

    The model is saved and checked first. The commit names the one it builds on, so that a push interrupted at any
    point, or overtaken by somebody else's, leaves the branch as it was. Weights of an earlier push that have no place
    any more are deleted in the same commit.

    Args:
        repo_id: ``"user/name"``.
        create: make the repo, and the branch ``revision``, if they are not there.
        private: for a repo that is made; ``True`` for one that exists and is public is refused.
        revision: branch to push to, ``"main"`` by default.
        create_pr: open a pull request instead of writing to the branch.
        commit_message, commit_description: of the commit.
        parent_commit: the commit that must still be the branch's last; its last at the start of the push by default.
        token: as in ``huggingface_hub``.
        max_shard_size, training_layers: as in :func:`~attention_refine.hub.save_pretrained`.
        card: what the README says beside what the model knows of itself. Without one, a README that is in the repo
            stays, and a plain one is made where there is none.

    Returns:
        ``huggingface_hub.CommitInfo``: ``.oid``, ``.commit_url``, ``.pr_url``.

    Raises:
        ValueError: ``repo_id`` is no id.
        NotRebuildable: the model could not be loaded again; nothing is sent.
        PushError: no access, a parent that is no longer the last commit, no network.
    """
    if not REPO_ID.fullmatch(repo_id):
        raise ValueError(f"repo_id={repo_id!r} is not accepted; write user/name, in letters, digits, '-', '_' and '.'")
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, max_shard_size=max_shard_size, training_layers=training_layers)
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        config["backbone"]["origin"] = without_places(config["backbone"]["origin"])
        config["objectives"] = [for_others(objective) for objective in config["objectives"]]
        (Path(folder) / CONFIG).write_text(to_json(config) + "\n", encoding="utf-8")
        api = HfApi(token=token, library_name="attention_refine")
        push = _Push(api, repo_id, revision or "main", create_pr)
        try:
            if create:
                push.create(private, wanted=revision is not None)
            head, present = push.state(private)
            if card is not None or CARD not in present:
                (card or Card()).write(model, repo_id, Path(folder), licence_of=push.licence_of)
            return push.commit(
                Path(folder), present, parent_commit or head, commit_message, redacted(commit_description or "", token)
            )
        except PushError as error:
            raise PushError(redacted(str(error), token)) from None
        except Exception as error:
            root = root_of(error)
            if status_of(root) is None and not worth_another_try(root) and not _is_hub_error(root):
                raise
            push.sent = push.sent and root is error  # one that the client wrapped is from before the commit: an upload
            cause = root if redacted(str(root), token) == str(root) else None
            raise PushError(redacted(push.failure(root), token)) from cause


class _Push:
    """One push: what it is asked to do, and how far it came."""

    def __init__(self, api: HfApi, repo_id: str, revision: str, create_pr: bool):
        self.api = api
        self.repo_id = repo_id
        self.revision = revision
        self.create_pr = create_pr
        self.sent = False  # whether the commit itself went out, so that it may have arrived

    def create(self, private: bool | None, wanted: bool) -> None:
        patiently(lambda: self.api.create_repo(self.repo_id, private=private, exist_ok=True))
        if wanted and not self.revision.startswith("refs/"):
            patiently(lambda: self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True))

    def state(self, private: bool | None) -> tuple[str | None, set[str]]:
        """The branch's last commit and the names of its files."""
        info = patiently(lambda: self.api.model_info(self.repo_id, revision=self.revision))
        if private and info.private is False:
            raise PushError(
                f"{self.repo_id!r} exists and is public, so nothing was sent; make it private in its settings on "
                "the Hub, or take another name"
            )
        return info.sha, {file.rfilename for file in info.siblings or []}

    def commit(self, folder: Path, present: set[str], parent: str | None, message: str, description: str) -> CommitInfo:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        stale = [name for name in sorted(present) if stored.is_weights(name) and name not in files]

        def send() -> CommitInfo:
            operations: list[Any] = [CommitOperationAdd(name, path) for name, path in files.items()]
            operations += [CommitOperationDelete(name) for name in stale]
            again, self.sent = self.sent, True
            try:
                return self.api.create_commit(
                    self.repo_id, operations, commit_message=message, commit_description=description,
                    revision=self.revision, create_pr=self.create_pr, parent_commit=parent,
                )  # fmt: skip
            except Exception as error:
                arrived = self._arrived(files) if again and status_of(error) == 412 else None
                if arrived is None:
                    raise
                return arrived

        return send() if self.create_pr else patiently(send)  # a second try could open a second pull request

    def _arrived(self, files: dict[str, Path]) -> CommitInfo | None:
        """The branch's last commit if it holds exactly what is sent: an earlier try arrived unanswered."""
        from huggingface_hub import CommitInfo

        info = patiently(lambda: self.api.model_info(self.repo_id, revision=self.revision, files_metadata=True))
        there = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings or []}
        if not all(matches(path, there.get(name) or "") for name, path in files.items()):
            return None
        url = f"{self.api.endpoint}/{self.repo_id}/commit/{info.sha}"
        return CommitInfo(commit_url=url, commit_message="", commit_description="", oid=info.sha or "")

    def licence_of(self, base_model: str) -> str | None:
        """The licence on the card of the weights this model came from, where the Hub tells it at the first try."""
        try:
            card = self.api.model_info(base_model, timeout=5).card_data
        except Exception:  # not there, no network, no access: the card then says that it is not known
            return None
        return card.get("license") if card is not None and isinstance(card.get("license"), str) else None

    def failure(self, error: BaseException) -> str:
        where = f"repo {self.repo_id!r}"
        if status_of(error) == 412:
            return (
                f"{where}: somebody else pushed to {self.revision!r} in the meantime (or parent_commit is not its "
                "last), so nothing was changed; load what is there, then push again"
            )
        why = sentence(error, where, self.revision).replace(" and the cache does not hold it", "")
        status = status_of(error)
        if self.sent and (status is None or status >= 500):
            return (
                f"the push was interrupted: {why}. Revision {self.revision!r} holds either all of it or what it held "
                "before; push again: nothing that arrived is sent twice"
            )
        return f"{why}. Nothing was changed; push again when that is put right"


def _is_hub_error(error: BaseException) -> bool:
    from huggingface_hub import errors

    kinds = (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalTokenNotFoundError)
    return isinstance(error, (*kinds, errors.OfflineModeIsEnabled))
