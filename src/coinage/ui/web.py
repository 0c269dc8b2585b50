"""Requests and answers in JSON, and errors as problems. Imports no torch."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from coinage.errors import CoinageError, Problem, described
from coinage.system.full_memory import is_full
from coinage.system.typed_json import decode
from coinage.ui.workspace import NotFoundError

T = TypeVar("T")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
MEMORY_FULL = Problem("there is not enough memory for this", hint="close other programs")


class RefusedError(CoinageError):
    """A request that is not carried out, with the status of its answer."""

    def __init__(self, status: int, what: str, where: str = "", hint: str = "") -> None:
        self.status = status
        super().__init__(what, where, hint)


def problems_answer(problems: Sequence[Problem], status: int) -> Response:
    """Return the answer that says what is wrong."""
    told = [{"what": each.what, "where": each.where, "hint": each.hint} for each in problems]
    return JSONResponse({"problems": told}, status)


def status_of(error: CoinageError) -> int:
    """Return the status of the answer to a request that failed."""
    if isinstance(error, NotFoundError):
        return 404
    if isinstance(error, RefusedError):
        return error.status
    cause = error.__cause__
    return 507 if isinstance(cause, OSError) and cause.errno in DISK_FULL else 400


def coinage_error(_: Request, error: Exception) -> Response:
    """Answer a request that failed with an error which the user can mend."""
    assert isinstance(error, CoinageError)  # noqa: S101 - it is registered for these alone
    return problems_answer(error.problems, status_of(error))


def http_error(_: Request, error: Exception) -> Response:
    """Answer a request to a page that is not there, or by a wrong method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these alone
    answer = problems_answer(
        [Problem(f"{error.detail}", hint="reload the page")], error.status_code
    )
    answer.headers.update(error.headers or {})
    return answer


def unexpected_error(_: Request, error: Exception) -> Response:
    """Answer a request on which the server failed."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        full = Problem("the disk is full", hint="free some space, then try again")
        return problems_answer([full], 507)
    if is_full(error):
        return problems_answer([MEMORY_FULL], 507)
    what = f"the server failed: {described(error)}"
    return problems_answer([Problem(what, hint="the terminal has the details")], 500)


async def read_json(request: Request) -> Any:
    """Return the value of a request's JSON.

    Raises:
        CoinageError: it is not JSON in UTF-8, nested too deeply, or it broke off.
    """
    try:
        body = await request.body()
    except ClientDisconnect:  # nobody reads the answer
        raise CoinageError("the request broke off", hint="send it again") from None
    try:
        return json.loads(body.decode() or "{}")
    except (ValueError, RecursionError):
        raise CoinageError("the request is not JSON", hint="reload the page") from None


async def read_as(request: Request, kind: type[T]) -> T:
    """Return a request's JSON as a dataclass; unknown keys and values of another type are errors.

    Raises:
        CoinageError: it does not fit.
    """
    value = await read_json(request)
    try:
        return decode(kind, value, exact=True)
    except (ValueError, TypeError) as error:
        raise CoinageError(f"the request does not fit: {error}", hint="reload the page") from None


async def in_thread(function: Callable[..., T], *values: Any) -> T:
    """Return what a function returns that waits for the disk or computes."""
    return await run_in_threadpool(function, *values)
