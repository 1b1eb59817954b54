"""Errors over HTTP: problem+json (RFC 9457) with a `code` of CODES.   [fastapi]"""

import json
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from likeness.core.errors import LikenessError, ServiceError, SpaceMismatch, UsageError
from likeness.serving.loaded_build import UnknownError
from likeness.serving.query_encoder import OverloadedError, PhotoError
from likeness.serving.responses import Problem
from likeness.serving.root import CoverageError

CODES = {
    "bad_request": (400, "the request cannot be meant: a parameter, a category, a box or a vector"),
    "no_key": (401, "an API key is needed, and none or a wrong one was given"),
    "forbidden": (403, "the key has no right to what is asked"),
    "unknown": (404, "no such product, image, build or path"),
    "method": (405, "the path is not asked that way"),
    "slow": (408, "the body did not arrive in time"),
    "space_mismatch": (409, "the vector is of another feature space than the build"),
    "too_large": (413, "the body is larger than the service takes"),
    "bad_image": (422, "a photo cannot be used; `reason` says why, as in the failure ledger"),
    "invalid": (422, "a parameter is unknown, has the wrong type or is out of range; `errors` names each"),
    "too_many": (429, "the key's rate or number at once is used up; Retry-After says when to try again"),
    "internal": (500, "a fault of the service; its log has the request_id"),
    "overloaded": (503, "too much is asked at once, or of one query; Retry-After says when to try again"),
    "coverage": (503, "fewer shards have answered than min_coverage says; try again, or ask for less"),
    "not_ready": (503, "no build is loaded yet, or a store does not answer; try again"),
}
"""Every error code with its status and meaning."""
_KINDS = {
    UnknownError: "unknown",
    UsageError: "bad_request",
    SpaceMismatch: "space_mismatch",
    CoverageError: "coverage",
    OverloadedError: "overloaded",
    LikenessError: "not_ready",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "model": Problem,
        "description": "; ".join(f"`{code}`: {meaning}" for code, (its, meaning) in CODES.items() if its == status),
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status in sorted({status for status, _ in CODES.values()})
}
"""The same for the OpenAPI contract, by status."""


def refusal(code: str, detail: str, headers: Mapping[str, str] | None = None) -> ASGIApp:
    """The response to a request that is refused before it reaches a route, as an ASGI application."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope.get("state", {}).get("request_id", "")
        await _problem(code, detail, headers, request_id=request_id)(scope, receive, send)

    return respond


def _problem(code: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """The response with an error and further members; no cache keeps it."""
    status, title = CODES[code]
    body = {"type": f"urn:likeness:{code}", "title": title, "status": status, "detail": detail, "code": code, **more}
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def handle_errors(app: FastAPI, log: Callable[[str], None], masked: Callable[[str], str]) -> None:
    """Makes an application respond to every error with a problem.

    Args:
        app: the application.
        log: gets errors that are not the caller's.
        masked: takes out of a message what callers need not know.
    """

    def respond(request: Request, error: Exception) -> Response:
        request_id = getattr(request.state, "request_id", "")
        respond_with = partial(_problem, request_id=request_id)
        match error:
            case RequestValidationError():
                errors = [{"where": ".".join(map(str, item["loc"])), "what": item["msg"]} for item in error.errors()]
                detail = "; ".join(f"{item['where']}: {item['what']}" for item in errors[:5])
                return respond_with("invalid", detail, errors=errors[:20])
            case HTTPException():
                code = {403: "forbidden", 404: "unknown", 405: "method"}.get(error.status_code, "bad_request")
                return respond_with(code, str(error.detail), _with_head(error.headers))
            case PhotoError():
                return respond_with("bad_image", error.message, reason=error.reason)
            case LikenessError():
                code = next(code for kind, code in _KINDS.items() if isinstance(error, kind))
                if code == "not_ready" and not isinstance(error, ServiceError):
                    log(json.dumps({"error": str(error)}))
                return respond_with(code, masked(error.message), {"Retry-After": "1"} if code == "overloaded" else None)
        raise error

    for kind in (LikenessError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, respond)


def _with_head(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """The headers of an error; `Allow` has HEAD beside GET, which `HeadMiddleware` answers."""
    if not headers or "GET" not in headers.get("Allow", ""):
        return headers
    return {**headers, "Allow": f"{headers['Allow']}, HEAD"}


class FaultMiddleware:
    """ASGI middleware: responds to faults of the service itself, which go to its log, with a problem."""

    def __init__(self, app: ASGIApp, log: Callable[[str], None]) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on; responds if that raises and nothing was sent yet."""
        started = False

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            request_id = scope.get("state", {}).get("request_id", "")
            self._log(json.dumps({"request_id": request_id, "fault": "".join(traceback.format_exception(error))}))
            await refusal("internal", "see the service's log")(scope, receive, send)
