"""From a folder or a Hub id to a checkpoint: config and header first, then, once they are judged, the weights."""

from __future__ import annotations

import logging
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import atomic_files
from . import weights as stored
from .checkpoint import CARD, PROCESSOR, Checkpoint, in_folder
from .checksums import is_checksum, matches
from .config import CONFIG, CheckpointError, check_size, read_config
from .retry import patiently, redacted, root_of, sentence, status_of, worth_another_try

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(\S+))?", re.ASCII)
LARGEST_CARD = 2**20  # bytes of a README that is kept with the model
logger = logging.getLogger(__name__)


def _hint(path: Path) -> str:
    """What may have been meant by the name of no folder."""
    page = re.search(r"huggingface\.co/+([\w.-]+/[\w.-]+)", path.as_posix())
    if page is not None:
        return f": of a page on the Hub give the id, {page[1]!r}"
    if path.is_file():
        return f": it is a file; give the folder that save_pretrained wrote, {path.parent.as_posix()!r} if that is it"
    return "; a network that is not refined yet is wrapped, ar.wrap(name)"


@dataclass(frozen=True)
class Source:
    """Where a model is asked from: the arguments of :func:`~attention_refine.hub.from_pretrained`."""

    name: str
    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    @classmethod
    def of(cls, source: str | Path, revision: str | None, **options: Any) -> Source | Path:
        """The folder that is meant, or the repo.

        Raises:
            CheckpointError: neither a folder nor a Hub id, or two revisions.
        """
        if not isinstance(source, (str, os.PathLike)):
            kind = source.__name__ if isinstance(source, type) else f"a {type(source).__name__}"
            raise CheckpointError(f"a saved model is given by its folder or its Hub id (user/name), got {kind}")
        folder = Path(source)
        if str(source) and folder.is_dir():
            return folder
        hub_id = HUB_ID.fullmatch(str(source))
        if hub_id is None:
            raise CheckpointError(
                f"{str(source)!r} is neither a folder nor a Hub id (user/name or user/name@revision){_hint(folder)}"
            )
        name, at = hub_id.groups()
        if at and revision not in (None, at):
            raise CheckpointError(f"two revisions are given: {at!r} in the id and revision={revision!r}")
        return cls(name, at or revision, **options)

    @property
    def offline(self) -> bool:
        from huggingface_hub import is_offline_mode

        return self.local_files_only or is_offline_mode()

    def file(self, name: str, commit: str | None) -> Path:
        """The local copy of one of the repo's files."""
        from huggingface_hub import hf_hub_download

        return Path(
            hf_hub_download(
                self.name, name, revision=commit or self.revision, token=self.token, cache_dir=self.cache_dir,
                local_files_only=self.offline, library_name="attention_refine",
            )
        )  # fmt: skip

    def __repr__(self) -> str:  # without the token
        return f"{self.name}@{self.revision}" if self.revision else self.name


def open_checkpoint(source: Source | Path, weights: bool = True) -> Checkpoint:
    """The checkpoint there, checked: its weights are only fetched once its config and header are judged sound.

    Args:
        weights: ``False`` fetches no weights, only their header.

    Raises:
        CheckpointError: no such repo, no access, no network; or files that are damaged, foreign or hostile.
    """
    if isinstance(source, Path):
        found = in_folder(source)
        found.check()
        return found
    try:
        return _offline(source) if source.offline else _online(source, weights)
    except CheckpointError:
        raise
    except Exception as raised:
        error = root_of(raised)
        if not _from_the_hub(error):
            raise
        said = f"{str(source)!r} is no folder here, and {sentence(error, f'repo {source.name!r}', source.revision)}"
        cause = error if redacted(str(error), source.token) == str(error) else None
        raise CheckpointError(redacted(said, source.token)) from cause


def _online(source: Source, weights: bool) -> Checkpoint:
    from huggingface_hub import HfApi

    api = HfApi(token=source.token, library_name="attention_refine")
    try:
        info = patiently(lambda: api.model_info(source.name, revision=source.revision, files_metadata=True))
    except Exception as error:
        if not worth_another_try(error):
            raise
        try:
            found = _offline(replace(source, local_files_only=True))
        except Exception:  # the cache has nothing: what the Hub said is the reason
            raise error from None
        logger.warning("the Hub cannot be reached; %r is taken from the cache, as it was last seen", source)
        return found
    sizes, commit = {file.rfilename: file.size or 0 for file in info.siblings or []}, info.sha
    if commit is None:
        raise CheckpointError(f"the Hub says no commit of {source.name!r}: try again later")
    if CONFIG not in sizes:
        raise CheckpointError(f"repo {source.name!r} has no {CONFIG}: it is no saved model")
    check_size(sizes[CONFIG], f"{source.name}/{CONFIG}")
    folder = _named_snapshot(source, commit)
    config = read_config(folder / CONFIG)
    names = _weight_names(source, commit, sizes)
    header = stored.remote_header((name, _header(api, source, name, commit, sizes[name])) for name in names)
    found = Checkpoint(str(source), folder, config, header, names)
    found.check()
    total = sum(sizes[name] for name in names)
    if total > sum(entry.size for entry in header.values()) + len(names) * stored.LARGEST_HEADER:
        raise CheckpointError(f"the weights of {source.name!r} are larger than their header says; refused")
    if not weights:
        return found
    for name in names:
        _whole(patiently(lambda: source.file(name, commit)))  # noqa: B023
    if 0 < sizes.get(CARD, 0) <= LARGEST_CARD:
        patiently(lambda: source.file(CARD, commit))
    return _settled(source, folder)


def _named_snapshot(source: Source, commit: str) -> Path:
    """The folder of the cache that holds that commit, its config in it, and the name that was asked for noted."""
    path = patiently(lambda: source.file(CONFIG, None))
    if path.parent.name != commit:  # pushed to in this moment, or a cache without links
        path = patiently(lambda: source.file(CONFIG, commit))
    return _whole(path).parent


def _weight_names(source: Source, commit: str, sizes: dict[str, int]) -> tuple[str, ...]:
    if stored.INDEX in sizes and stored.WEIGHTS in sizes:
        raise CheckpointError(f"repo {source.name!r} holds {stored.WEIGHTS} and {stored.INDEX}; one is left over")
    if stored.WEIGHTS in sizes:
        return (stored.WEIGHTS,)
    if stored.INDEX not in sizes:
        raise CheckpointError(
            f"repo {source.name!r} has no {stored.WEIGHTS}: it is not whole, or a pickle, which is never read"
        )
    if (sizes[stored.INDEX] or 0) > stored.LARGEST_HEADER:
        raise CheckpointError(f"{source.name}/{stored.INDEX} is larger than any index of shards; it is not read")
    index = _whole(patiently(lambda: source.file(stored.INDEX, commit)))
    names = tuple(stored.shards_in(index.read_bytes(), f"{source.name}/{stored.INDEX}"))
    for name in names:
        if name not in sizes:
            raise CheckpointError(f"repo {source.name!r} has no {name}, which {stored.INDEX} names: it is not whole")
    return names


def _header(api: HfApi, source: Source, name: str, commit: str, size: int | None) -> Any:
    if not size or size < 8:
        raise CheckpointError(f"{source.name}/{name} is not a whole safetensors file: it is empty")
    return patiently(lambda: api.parse_safetensors_file_metadata(source.name, name, revision=commit))


def _offline(source: Source) -> Checkpoint:
    folder = _whole(source.file(CONFIG, None)).parent
    for name in (stored.INDEX, stored.WEIGHTS):
        if (folder / name).exists():
            return _settled(source, folder)
    raise CheckpointError(f"the cache holds the config of {source.name!r} but not its weights; load it online once")


def _settled(source: Source, folder: Path) -> Checkpoint:
    """What lies in the cache now, checked as any folder is."""
    for file in stored.weight_files(folder):
        _whole(file)
    found = replace(in_folder(folder), source=str(source))
    found.check()
    return found


def _whole(path: Path) -> Path:
    """The path, once its content has the checksum the cache files it under; a damaged file is deleted there."""
    blob = path.resolve()
    if is_checksum(blob.name) and not matches(blob, blob.name):
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path.name} does not match its checksum: it was damaged on the way, and has been deleted; load it again"
        )
    return path


def _from_the_hub(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, SafetensorsParsingError

    kinds = (HfHubHTTPError, HfHubHTTPError.__bases__[0], HFValidationError, SafetensorsParsingError, OSError)
    return isinstance(error, kinds) or status_of(error) is not None


def pull(source: str | Path, folder: str | Path, *, revision: str | None = None, token: str | bool | None = None,
         cache_dir: str | Path | None = None, local_files_only: bool = False) -> Path:  # fmt: skip
    """Copy a checked checkpoint, its card included, into a folder; returns the folder.

    Raises:
        CheckpointError: see :func:`~attention_refine.hub.from_pretrained`; nothing is written then.
    """
    found = open_checkpoint(
        Source.of(source, revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    )
    folder = Path(folder)
    names = [name for name in (*found.names, stored.INDEX, PROCESSOR, CARD, CONFIG) if (found.folder / name).is_file()]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_files(*(folder / name for name in names)) as paths:
        for name, path in zip(names, paths):
            shutil.copyfile(found.folder / name, path)
    stored.remove_others(folder, names)
    return folder
