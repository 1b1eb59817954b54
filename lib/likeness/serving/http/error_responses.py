"""Errors over HTTP: problem+json (RFC 9457) with a `code` of CODES.   [fastapi]"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from likeness.core.errors import LikenessError, ServiceError, SpaceMismatch, UsageError
from likeness.images.image import BadImage
from likeness.serving.build_watcher import UnknownError
from likeness.serving.responses import Problem
from likeness.serving.root import CoverageError

CODES = {
    "bad_request": (400, "the request cannot be meant: a parameter, a category or a box"),
    "no_key": (401, "an API key is needed, and none or a wrong one was given"),
    "unknown": (404, "no such product, image, build or path"),
    "method": (405, "the path is not asked that way"),
    "slow": (408, "the body did not arrive in time"),
    "space_mismatch": (409, "the vector is of another feature space than the build"),
    "too_large": (413, "the body is larger than the service takes"),
    "bad_image": (422, "a photo cannot be used; `reason` says why, as in the failure ledger"),
    "invalid": (422, "a parameter has the wrong type or is out of range; `errors` names each"),
    "too_many": (429, "the key's rate or number at once is used up; Retry-After says when to try again"),
    "internal": (500, "a fault of the service; its log has the request_id"),
    "coverage": (503, "fewer shards have answered than min_coverage says; try again, or ask for less"),
    "not_ready": (503, "no build is loaded yet, or a store does not answer; try again"),
}
"""Every error code with its status and meaning."""
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "model": Problem,
        "description": "; ".join(f"`{code}`: {meaning}" for code, (its, meaning) in CODES.items() if its == status),
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status in sorted({status for status, _ in CODES.values()})
}
"""What the contract says of them."""


def contract(app: FastAPI) -> None:
    """Lets an application's OpenAPI say that errors are problem+json, and nothing else."""
    drawn = app.openapi

    def openapi() -> dict[str, Any]:
        told = drawn()
        for path in told["paths"].values():
            for asked in path.values():
                for status, response in asked["responses"].items():
                    if int(status) >= 400:
                        response["content"].pop("application/json", None)
        return told

    app.openapi = openapi  # type: ignore[method-assign]


def problem(code: str, detail: str, request: Request | None = None, **more: Any) -> JSONResponse:
    """The answer that an error is, with more members."""
    status, title = CODES[code]
    told = {"type": f"urn:likeness:{code}", "title": title, "status": status, "detail": detail, "code": code, **more}
    if request:
        told["request_id"] = getattr(request.state, "request_id", "")
    return JSONResponse(told, status, media_type="application/problem+json")


def refused(code: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """What is answered before a route is asked."""
    response = problem(code, detail)
    response.headers.update(headers or {})
    return response


def explain(app: FastAPI, log: Callable[[str], None]) -> None:
    """Lets an application answer every error as a problem; faults of the service itself go to the log."""

    @app.exception_handler(LikenessError)
    def known(request: Request, error: LikenessError) -> Response:
        kinds = {
            UnknownError: "unknown",
            UsageError: "bad_request",
            SpaceMismatch: "space_mismatch",
            CoverageError: "coverage",
        }
        code = next((code for kind, code in kinds.items() if isinstance(error, kind)), "not_ready")
        if code == "not_ready" and not isinstance(error, ServiceError):
            log(json.dumps({"error": str(error)}))
        return problem(code, str(error), request)

    @app.exception_handler(BadImage)
    def bad_image(request: Request, error: BadImage) -> Response:
        return problem("bad_image", str(error), request, reason=error.reason)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        told = [{"where": ".".join(map(str, one["loc"])), "what": one["msg"]} for one in error.errors()]
        detail = "; ".join(f"{one['where']}: {one['what']}" for one in told[:5])
        return problem("invalid", detail, request, errors=told[:20])

    @app.exception_handler(StarletteHTTPException)
    def other(request: Request, error: HTTPException) -> Response:
        code = {404: "unknown", 405: "method"}.get(error.status_code, "bad_request")
        return problem(code, str(error.detail), request)

    @app.exception_handler(Exception)
    def fault(request: Request, error: Exception) -> Response:
        log(json.dumps({"request_id": getattr(request.state, "request_id", ""), "fault": repr(error)}))
        return problem("internal", "see the service's log", request)
