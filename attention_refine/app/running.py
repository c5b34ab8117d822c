"""``edit`` and ``serve``: a model, perhaps a dataset, and the pages at an address."""

from __future__ import annotations

import json
import socket
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attention_refine.app.collection import Collection
from attention_refine.app.repairs import Repairs
from attention_refine.app.viewer import Viewer
from attention_refine.app.words import Words
from attention_refine.auditing import Audit, audit
from attention_refine.core.files import atomic_file
from attention_refine.hub import load
from attention_refine.repairing.repair import map_of

HOST, PORT = "127.0.0.1", 7860
LOOPBACK = ("127.0.0.1", "localhost", "::1")
Overrides = Mapping[str, Mapping[str, Any]]


def edit(
    model: str | Path,
    source: str | Path,
    output: str | Path = "edit",
    *,
    split: str = "train",
    limit: int | None = 200,
    goal: str = "accuracy",
    recipe: str | None = None,
    overrides: Overrides | None = None,
    words: str | Path | None = None,
    device: torch.device | str = "cpu",
    host: str = HOST,
    port: int = PORT,
    open_page: bool = False,
    first: str = "edit",
) -> None:
    """Audit a split, then serve a page on which its maps are drawn, saved into the folder, and the model repaired.

    Args:
        model: folder of a saved model, or a Hub id.
        source: folder of images, which the edited maps are written into.
        output: folder for the audit and the repairs. An audit of the same model and images is taken from there.
        split: the one that is edited and trained on.
        limit: so many images are audited; the others stand behind them, in the folder's order. None for all.
        goal, recipe, overrides: of a repair, as :func:`attention_refine.repair` takes them.
        words: a Hub id or folder of a network that finds what a text names, as :func:`attention_refine.data.annotate`
            takes them: the page gets a field for the text, and draws what it finds.
        device: of the model on the page.
        host: address to listen at. Whoever reaches it can write maps and start trainings.
        port: 0 for a free one.
        open_page: open it in the browser.
        first: page that opens, ``"edit"`` or ``"live"``; each links to the other.

    Raises:
        ValueError: the extra is not installed, the port is taken, the model and the folder do not go together.
        DataError: the folder cannot be read.
    """
    _check_installed()
    finder = None if words is None else Words(words, device)
    viewer, collection, output = Viewer(load(model, device=device)), Collection(source, split), Path(output)
    collection.worst_first(_audited(viewer, collection, output / "audit", str(model), limit))
    folder = Path(model)
    if not folder.is_dir():  # a Hub id: a repair goes on from a folder
        folder = output / "model"
        viewer.model.save_pretrained(folder)
    repairs = Repairs(
        folder.resolve(), collection.folder.resolve(), split, output, goal=goal, recipe=recipe, limit=limit,
        overrides=overrides,
    )  # fmt: skip
    print(f"{len(collection)} images, {collection.edited} with an edited map", flush=True)
    try:
        _run(viewer, _called(model), collection, repairs, first, host, port, open_page, finder)
    finally:
        repairs.stop()


def serve(
    model: str | Path,
    *,
    device: torch.device | str = "cpu",
    host: str = HOST,
    port: int = PORT,
    open_page: bool = False,
) -> None:
    """Serve a page that shows what a model makes of images that are dropped on it, and of maps drawn on them.

    Arguments and errors are those of :func:`edit`. Nothing that people drop is written anywhere.
    """
    _check_installed()
    _run(Viewer(load(model, device=device)), _called(model), None, None, "live", host, port, open_page)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        ValueError: somebody else does, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        said = f"cannot listen at {host}:{port} ({error.strerror}): give another --port, or 0 for a free one"
        raise ValueError(said) from error
    return listener


def _run(
    viewer: Viewer,
    title: str,
    collection: Collection | None,
    repairs: Repairs | None,
    first: str,
    host: str,
    port: int,
    open_page: bool,
    words: Words | None = None,
) -> None:
    import uvicorn

    from attention_refine.app.server import Server

    listener = listening(host, port)
    hosts = [*LOOPBACK, "[::1]"] if host in LOOPBACK else ["*"]
    app = Server(viewer, title, collection, repairs, words).app(hosts, first)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/"
    if host not in LOOPBACK:
        print(f"listening at {host}: whoever reaches this machine can use the page", flush=True)
    print(f"open {address} (Ctrl+C ends it)", flush=True)
    if open_page:
        webbrowser.open(address)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listener])


def _called(model: str | Path) -> str:
    """What a model is called: best and last are a run's models, not its name."""
    path = Path(model)
    return path.resolve().parent.name if path.name in ("best", "last") else path.name


def _audited(viewer: Viewer, collection: Collection, folder: Path, model: str, limit: int | None) -> Audit:
    """The audit of the images; the one that lies in ``folder``, where it is of the same model and images."""
    weights = Path(model) / "model.safetensors"
    stat = weights.stat() if weights.is_file() else None
    facts = {
        "model": str(Path(model).resolve()) if stat else model, "weights": [stat.st_size, stat.st_mtime_ns] if stat else None,
        "source": str(collection.folder.resolve()), "split": collection.split, "images": sorted(collection.order), "limit": limit,
    }  # fmt: skip
    stamp = folder / "of.json"
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == facts:
        return Audit.from_json(folder / "audit.json")
    found = audit(
        viewer.model, collection.rows, folder, map=map_of(viewer.model), limit=limit,
        title=f"Audit of {collection.split}, before editing",
    )  # fmt: skip
    with atomic_file(stamp) as path:
        path.write_text(json.dumps(facts), encoding="utf-8")
    return found


def _check_installed() -> None:
    """
    Raises:
        ValueError: the extra is not.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(f"the pages need {error.name}: pip install 'attention-refine[app]'") from error
