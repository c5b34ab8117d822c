"""What the pages ask for: routes over a viewer, a collection and its repairs, each answer JSON, a picture or a page."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from attention_refine.app.collection import Collection, NotHere, Overtaken
from attention_refine.app.held import Held
from attention_refine.app.repairs import Repairs
from attention_refine.app.uploads import MOST_BYTES, opened
from attention_refine.app.viewer import CELLS, FEWER, Seen, Viewer
from attention_refine.app.words import Words
from attention_refine.drawing.overlay import colours
from attention_refine.report.page import templates

UPLOADS = 64  # photographs that are held, of everybody
READY = 32  # photographs of the dataset that are held ready for the model
POLICY = "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'"


class Server:
    """The pages and what they ask for.

    Args:
        viewer: the model.
        title: what the model is called.
        collection: images whose maps are edited; without them there is the live page alone.
        repairs: how they are repaired.
        words: what proposes a map of what a text names.
    """

    def __init__(
        self, viewer: Viewer, title: str, collection: Collection | None = None, repairs: Repairs | None = None,
        words: Words | None = None,
    ):  # fmt: skip
        self.viewer, self.title, self.collection, self.repairs, self.words = viewer, title, collection, repairs, words
        self.uploads: Held[Seen] = Held(UPLOADS)
        self.ready: Held[Seen] = Held(READY)
        self.pages = templates("app")

    def app(self, hosts: Sequence[str] = ("*",), first: str = "live") -> Starlette:
        """The application.

        Args:
            hosts: names under which it may be asked; a page elsewhere that resolves its name to this machine has another.
            first: the page at ``/``: ``"live"`` or ``"edit"``.
        """
        routes = [
            Route("/", lambda request: RedirectResponse(f"/{first}")),
            Route("/live", self.live_page),
            Route("/api/model", self.model),
            Route("/api/upload", self.upload, methods=["POST"]),
            Route("/api/picture", self.picture),
            Route("/api/map", self.map),
            Route("/api/predict", self.predict, methods=["POST"]),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ]
        if self.collection is not None:
            routes += [
                Route("/edit", self.edit_page),
                Route("/api/images", self.images),
                Route("/api/image", self.image),
                Route("/api/edit", self.save, methods=["POST"]),
                Route("/api/edit", self.discard, methods=["DELETE"]),
            ]
        if self.collection is not None and self.words is not None:
            routes.append(Route("/api/words", self.propose))
        if self.repairs is not None:
            routes += [
                Route("/api/repair", self.repair, methods=["GET", "POST", "DELETE"]),
                Route("/results/{path:path}", self.result),
            ]
        handlers: dict[Any, Any] = dict.fromkeys((ValueError, OSError, RuntimeError), _said(400))
        handlers |= {NotHere: _said(404), Overtaken: _said(409), HTTPException: _refused, Exception: _said(500)}
        return Starlette(
            routes=routes,
            exception_handlers=handlers,
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        )

    # pages -------------------------------------------------------------------------------------------------------------

    def live_page(self, request: Request) -> Response:
        return self._page("live.html.jinja", "live")

    def edit_page(self, request: Request) -> Response:
        return self._page(
            "edit.html.jinja", "edit", split=self._edited.split, folder=str(self._edited.folder),
            words=self.words is not None,
        )  # fmt: skip

    def result(self, request: Request) -> Response:
        """A page of the output folder; nothing else of it."""
        assert self.repairs is not None, "its routes are there where it is"
        root = self.repairs.output.resolve()
        path = (root / request.path_params["path"]).resolve()
        if not path.is_relative_to(root) or path.suffix != ".html" or not path.is_file():
            raise NotHere("there is no such page")
        return FileResponse(path)

    def _page(self, template: str, here: str, **values: Any) -> Response:
        text = self.pages.get_template(template).render(
            title=self.title, here=here, dataset=self.collection is not None, repairs=self.repairs is not None,
            audit=self.repairs is not None and (self.repairs.output / "audit" / "audit.html").is_file(),
            acts=self.viewer.acts, most_bytes=MOST_BYTES, **values,
        )  # fmt: skip
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})

    # the model on photographs --------------------------------------------------------------------------------------------

    def model(self, request: Request) -> Response:
        shades = (colours(np.linspace(0, 1, 256)) * 255 + 0.5).astype(np.uint8)
        return JSONResponse({
            "title": self.title, "labels": self.viewer.model.labels, "methods": self.viewer.methods(),
            "own": self.viewer.own, "acts": self.viewer.acts, "colours": _encoded(shades),
        })  # fmt: skip

    async def upload(self, request: Request) -> Response:
        name = request.query_params.get("name", "the file")[:200]
        content = await _body(request, MOST_BYTES, f"{name} is larger than the {MOST_BYTES >> 20} MB that are taken")

        def look() -> dict[str, Any]:
            seen = self.viewer.look(opened(content, name))
            given = secrets.token_urlsafe(16)
            described = {"upload": given, "scores": self.viewer.predict(seen), **_described(seen)}
            self.uploads.put(given, seen)
            return described

        return JSONResponse(await run_in_threadpool(look))

    def picture(self, request: Request) -> Response:
        return Response(self._seen(request).picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    def map(self, request: Request) -> Response:
        """A map of a photograph: where it is drawn, 0 to 255, and its values as they come, float32."""
        seen, method = self._seen(request), request.query_params.get("method", self.viewer.own)
        if method not in self.viewer.methods():
            raise ValueError(f"map {method!r} is not one of {', '.join(self.viewer.methods())}")
        classes = len(self.viewer.model.labels)
        target = _number(request, "target", classes - 1) if "target" in request.query_params else None
        values = self.viewer.map(seen, method, target)
        drawn = self.viewer.placed(seen, values, unit=method == "model" and self.viewer.acts)
        return JSONResponse({
            "drawn": _encoded(_bytes(drawn)), "values": _encoded(values.numpy().astype("<f4")),
            "shape": list(values.shape), "low": float(values.min()), "high": float(values.max()),
            "made_with": FEWER.get(method),
        })  # fmt: skip

    async def predict(self, request: Request) -> Response:
        drawn = await _drawn(request)
        scores = await run_in_threadpool(lambda: self.viewer.predict(self._seen(request), drawn))
        return JSONResponse({"scores": scores})

    def _seen(self, request: Request) -> Seen:
        """The photograph that a request names: one that was dropped, or one of the dataset."""
        given, name = request.query_params.get("upload"), request.query_params.get("name", "")
        if given is not None:
            seen = self.uploads.get(given)
            if seen is None:
                raise NotHere("this photograph is no longer held here: drop it again")
            return seen
        if self.collection is None:
            raise NotHere("there is no dataset here")
        seen = self.ready.get(name)
        return self.ready.put(name, self.viewer.look(self.collection.photograph(name))) if seen is None else seen

    # the dataset ---------------------------------------------------------------------------------------------------------

    @property
    def _edited(self) -> Collection:
        assert self.collection is not None, "its routes are there where it is"
        return self.collection

    def images(self, request: Request) -> Response:
        found = [self._edited[name] for name in self._edited.order]
        return JSONResponse({
            "images": [
                {"name": e.name, "label": e.label, "found": e.found, "wrong": e.wrong, "edited": e.map_file is not None}
                for e in found
            ],
            "edited": self._edited.edited,
        })  # fmt: skip

    def image(self, request: Request) -> Response:
        entry, seen = self._edited[request.query_params.get("name", "")], self._seen(request)
        drawn, revision = self._edited.edit(entry.name)
        drawn = None if drawn is None else _fitted(drawn, seen.grid)
        return JSONResponse({
            "name": entry.name, "label": entry.label, "found": entry.found, **_described(seen),
            "own": _encoded(_bytes(self.viewer.own_map(seen))), "drawn": None if drawn is None else _encoded(_bytes(drawn)),
            "scores": self.viewer.predict(seen), **self._stands(seen, drawn, revision),
        })  # fmt: skip

    async def save(self, request: Request) -> Response:
        _check_origin(request)
        drawn = await _drawn(request)

        def write() -> dict[str, Any]:
            seen, name = self._seen(request), request.query_params.get("name", "")
            if drawn.shape != seen.grid:
                raise ValueError(f"a map of {name} is {seen.grid} (height, width), the one that was sent {drawn.shape}")
            return self._stands(seen, drawn, self._edited.save(name, drawn, request.query_params.get("base")))

        return JSONResponse(await run_in_threadpool(write))

    def propose(self, request: Request) -> Response:
        """A map of what a text names in an image; it is not saved."""
        name, text = (request.query_params.get(key, "")[:400] for key in ("name", "text"))
        seen = self._seen(request)
        assert self.words is not None, "its route is there where they are"
        drawn = self.words.propose(self._edited.photograph(name), text, seen.grid)
        return JSONResponse({"drawn": _encoded(_bytes(drawn))})

    def discard(self, request: Request) -> Response:
        _check_origin(request)
        self._edited.discard(request.query_params.get("name", ""), request.query_params.get("base"))
        return JSONResponse(self._stands(self._seen(request), None, ""))

    def _stands(self, seen: Seen, drawn: np.ndarray | None, revision: str) -> dict[str, Any]:
        """How an image's edit stands: its revision, how many there are in all, and the prediction with it."""
        edited = self.viewer.predict(seen, drawn) if drawn is not None and self.viewer.acts else None
        return {"revision": revision, "edited": self._edited.edited, "edited_scores": edited}

    def repair(self, request: Request) -> Response:
        assert self.repairs is not None, "its routes are there where it is"
        if request.method != "GET":
            _check_origin(request)
            self.repairs.start() if request.method == "POST" else self.repairs.stop()
        return JSONResponse(self.repairs.state())


async def _body(request: Request, most: int, too_large: str) -> bytes:
    """What was sent, as long as it is no more than ``most`` bytes."""
    if int(request.headers.get("content-length") or 0) > most:
        raise HTTPException(413, too_large)
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise HTTPException(413, too_large)
    return bytes(content)


async def _drawn(request: Request) -> np.ndarray:
    """The map that was sent: a byte a cell, ``height`` rows of ``width``; as float32 in [0, 1]."""
    height, width = (_number(request, side, CELLS) for side in ("height", "width"))
    content = await _body(request, CELLS * CELLS, "a map is larger than the editor draws them")
    if len(content) != height * width or not content:
        raise ValueError(f"a map of {height} x {width} has {height * width} bytes, {len(content)} were sent")
    return np.frombuffer(content, np.uint8).reshape(height, width).astype(np.float32) / 255


def _number(request: Request, name: str, most: int) -> int:
    text = request.query_params.get(name, "")
    if not text.isdecimal() or int(text) > most:
        raise ValueError(f"{name} must be a whole number up to {most}, got {text[:20]!r}")
    return int(text)


def _check_origin(request: Request) -> None:
    """Refuse what a page from elsewhere asks a browser to write here."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "only the editor's own page may write here")


def _described(seen: Seen) -> dict[str, Any]:
    height, width = seen.grid
    return {"size": list(seen.size), "height": height, "width": width, "box": list(seen.box)}


def _bytes(drawn: np.ndarray) -> np.ndarray:
    return np.round(drawn * 255).astype(np.uint8)


def _encoded(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _fitted(drawn: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map that was made elsewhere, at the size that is drawn on."""
    if drawn.shape == size:
        return drawn
    import torch.nn.functional as F
    from torch import from_numpy

    whole = F.interpolate(from_numpy(drawn)[None, None], size, mode="bilinear", align_corners=False, antialias=True)
    return whole[0, 0].clamp(0, 1).numpy()


def _said(status: int) -> Any:
    """Answers an error with its sentence."""

    def answer(request: Request, error: Exception) -> Response:
        said = " ".join(str(error).split()) or type(error).__name__
        return JSONResponse({"error": said if status != 500 else f"{type(error).__name__}: {said}"}, status)

    return answer


def _refused(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code)
