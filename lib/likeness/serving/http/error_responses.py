"""Errors over HTTP: problem+json (RFC 9457) with a `code` of CODES.   [fastapi]"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

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


def describe_errors(app: FastAPI) -> None:
    """Makes the OpenAPI contract of an application describe errors as problem+json only."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        for path in schema["paths"].values():
            for operation in path.values():
                for status, response in operation["responses"].items():
                    if int(status) >= 400:
                        response["content"].pop("application/json", None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def refusal(code: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """The response to a request that is refused, with further members."""
    status, title = CODES[code]
    body = {"type": f"urn:likeness:{code}", "title": title, "status": status, "detail": detail, "code": code, **more}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def handle_errors(app: FastAPI, log: Callable[[str], None]) -> None:
    """Makes an application respond to every error with a problem; faults of the service itself go to the log."""

    def respond(request: Request, error: Exception) -> Response:
        request_id = getattr(request.state, "request_id", "")
        respond_with = partial(refusal, request_id=request_id)
        match error:
            case RequestValidationError():
                errors = [{"where": ".".join(map(str, item["loc"])), "what": item["msg"]} for item in error.errors()]
                detail = "; ".join(f"{item['where']}: {item['what']}" for item in errors[:5])
                return respond_with("invalid", detail, errors=errors[:20])
            case HTTPException():
                code = {403: "forbidden", 404: "unknown", 405: "method"}.get(error.status_code, "bad_request")
                return respond_with(code, str(error.detail))
            case PhotoError():
                return respond_with("bad_image", error.message, reason=error.reason)
            case LikenessError():
                code = next(code for kind, code in _KINDS.items() if isinstance(error, kind))
                if code == "not_ready" and not isinstance(error, ServiceError):
                    log(json.dumps({"error": str(error)}))
                return respond_with(code, error.message, {"Retry-After": "1"} if code == "overloaded" else None)
        log(json.dumps({"request_id": request_id, "fault": repr(error)}))
        return respond_with("internal", "see the service's log")

    for kind in (LikenessError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, respond)
