"""Requests to the Hub: retried where waiting helps, and answered in one sentence where it does not."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds
LONGEST_PAUSE = 60.0
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
logger = logging.getLogger(__name__)


class Unreachable(Exception):
    """No answer, whatever the reason: the cache may still have one."""


def patiently(ask: Callable[[], T]) -> T:
    """``ask()``, again after a pause where the Hub is busy or the line broke; the last error otherwise."""
    for pause in PAUSES:
        try:
            return ask()
        except Exception as error:
            if not worth_another_try(error):
                raise
            wait = min(_asked_pause(error) or pause, LONGEST_PAUSE)
            logger.warning("the Hub did not answer (%s); trying again in %.0f s", _kind(error), wait)
            time.sleep(wait)
    return ask()


def worth_another_try(error: BaseException) -> bool:
    status = status_of(error)
    return status in TRY_AGAIN if status is not None else is_broken_line(error)


def status_of(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def root_of(error: BaseException) -> BaseException:
    """The answer of the Hub's, or the broken line, behind an error that the client wrapped it in."""
    found: BaseException | None = error
    while found is not None:
        if status_of(found) is not None or is_broken_line(found):
            return found
        found = found.__cause__
    return error


def is_broken_line(error: BaseException) -> bool:
    """Whether no answer came at all: refused, timed out, cut off, or not of the size that was announced."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, (HfHubHTTPError, OfflineModeIsEnabled, FileNotFoundError, PermissionError)):
        return isinstance(error, LocalEntryNotFoundError) and is_broken_line(error.__cause__ or OSError())
    http_error = HfHubHTTPError.__bases__[0]  # of whichever HTTP client the Hub's uses
    return isinstance(error, (http_error, ConnectionError, TimeoutError)) or "onsistency check failed" in str(error)


def sentence(error: BaseException, what: str, revision: str | None = None) -> str:
    """What went wrong with ``what``, and the remedy, for a person; without tokens."""
    from huggingface_hub import errors

    login = "log in with `hf auth login` or pass token=..."
    status = status_of(error)
    if isinstance(error, errors.GatedRepoError):
        said = f"{what} is gated: ask for access on its page on the Hub, then {login}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        said = f"the Hub has no {what}, or it is private and you may not see it: check the name, or {login}"
    elif isinstance(error, errors.RevisionNotFoundError):
        said = f"{what} has no revision {revision!r}: take a branch, a tag or a commit of it"
    elif status == 401:
        said = f"the Hub does not accept the token for {what} (401): {login}"
    elif status == 403:
        said = f"the token does not allow this on {what} (403): use one with the right scope, or {login}"
    elif status == 429:
        said = f"the Hub asks for patience (429) about {what}: try again in some minutes"
    elif status is not None and status >= 500:
        said = f"the Hub failed ({status}) on {what}: try again later"
    elif isinstance(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)) or is_broken_line(error):
        said = (
            f"the Hub cannot be reached for {what} ({_kind(error)}) and the cache does not hold it: check the network"
        )
    else:
        said = f"{what}: {_first_line(error)}"
    return redacted(said)


def redacted(text: str, *tokens: Any) -> str:
    """``text`` without the tokens given, found on this machine, or looking like one."""
    from huggingface_hub import get_token

    for token in (*tokens, get_token()):
        if isinstance(token, str) and token:
            text = text.replace(token, "***")
    return re.sub(r"\bhf_[A-Za-z0-9]{20,}", "hf_***", text)


def _kind(error: BaseException) -> str:
    status = status_of(error)
    return str(status) if status is not None else type(error).__name__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _asked_pause(error: Any) -> float | None:
    """Seconds of a ``Retry-After`` header."""
    try:
        return float(error.response.headers["Retry-After"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
