"""The HTTP API and the page: a `Service` in, a FastAPI application out.   [fastapi, prometheus-client]

Errors are problem+json (RFC 9457) with a `code` of CODES. Uploads are held in memory while they are answered.
"""

import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from likeness.errors import LikenessError, ServiceError, SpaceMismatch, UsageError
from likeness.images import WHOLE, BadImage, Box
from likeness.serving.bodies import Bodies
from likeness.serving.keys import Doorkeeper
from likeness.serving.root import Wish
from likeness.serving.service import Combine, NotReadyError, Service, UnknownError

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
    "not_ready": (503, "no build is loaded yet, or a store does not answer; try again"),
}
"""Every error code with its status and meaning."""

_PAGE = {"": "text/html", "app.js": "text/javascript", "style.css": "text/css"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SPARE = 1 << 20

K = Annotated[int, Query(ge=1, description="results wanted")]
Category = Annotated[str, Query(description="auto (the best predicted), all, or a name")]
Offset = Annotated[int, Query(ge=0, description="results to pass over: those of pages before")]
MinScore = Annotated[float | None, Query(allow_inf_nan=False, description="results below it are left out")]
Distinct = Annotated[bool, Query(description="one result a product")]
BuildName = Annotated[str, Query(description="a build by name; the one in service if empty")]


class VectorQuery(BaseModel):
    """Vectors as the layer gives them, of a feature space, and what is wanted."""

    space: str
    vectors: Annotated[list[list[Annotated[float, Field(allow_inf_nan=False)]]], Field(min_length=1, max_length=64)]
    k: int = Field(10, ge=1)
    category: str = "auto"
    offset: int = Field(0, ge=0)
    min_score: float | None = Field(None, allow_inf_nan=False)
    distinct: bool = False
    combine: Combine = "best"
    build: str = ""


def create_app(service: Service, log: Callable[[str], None] = lambda told: None) -> FastAPI:
    """The application of a service that was started.

    Args:
        service: what answers.
        log: gets a line of JSON a request.
    """
    app = FastAPI(
        title="likeness",
        version="1",
        description="Visual search: a photo, a product or a vector in, the products that look like it out.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    limits, given = service.settings.limits, service.settings.serve
    meters = _Meters()
    _errors(app, log)
    _queries(app, service, meters)
    _looks(app, service, meters)
    # each is asked before those above it
    app.add_middleware(Bodies, most=given.photos_max * limits.max_bytes + _SPARE, refuse=_refused)
    app.add_middleware(Doorkeeper, settings=given, refuse=_refused)
    _observed(app, meters, log)
    if given.cors:
        app.add_middleware(CORSMiddleware, allow_origins=given.cors, allow_methods=["GET", "POST"], allow_headers=["*"])
    return app


def _queries(app: FastAPI, service: Service, meters: "_Meters") -> None:
    @app.post("/v1/search", summary="Search with a photo, or with several of one thing")
    def search(
        image: Annotated[list[UploadFile], File(description="one photo or several")],
        k: Annotated[int, Form(ge=1)] = 10,
        category: Annotated[str, Form()] = "auto",
        box: Annotated[str, Form(description="left,top,right,bottom of the part that is meant, between 0 and 1")] = "",
        offset: Annotated[int, Form(ge=0)] = 0,
        min_score: Annotated[float | None, Form(allow_inf_nan=False)] = None,
        distinct: Annotated[bool, Form()] = False,
        combine: Annotated[Combine, Form(description="of several photos: the best of each, or their mean")] = "best",
        build: Annotated[str, Form()] = "",
    ) -> dict[str, Any]:
        most = service.settings.serve.photos_max
        if len(image) > most:
            raise UsageError(f"{len(image)} photos are given; serve.photos_max is {most}")
        photos = [one.file.read() for one in image]
        wish = _wish(k, category, offset, min_score, distinct)
        return meters.timed(service.photos(photos, wish, build, _box(box), combine))

    @app.post("/v1/search/vectors", summary="Search with vectors")
    def search_vectors(query: VectorQuery) -> dict[str, Any]:
        if len({len(row) for row in query.vectors}) != 1:
            raise UsageError("the vectors are not of one length")
        vectors = np.array(query.vectors, np.float32)
        wish = _wish(query.k, query.category, query.offset, query.min_score, query.distinct)
        return meters.timed(service.vectors(vectors, query.space, wish, query.build, query.combine))

    @app.get("/v1/products/{product_id:path}/similar", summary="What looks like a product")
    def similar(
        product_id: str,
        k: K = 10,
        category: Category = "auto",
        offset: Offset = 0,
        min_score: MinScore = None,
        distinct: Distinct = False,
        build: BuildName = "",
    ) -> dict[str, Any]:
        return meters.timed(service.product(product_id, _wish(k, category, offset, min_score, distinct), build))


def _looks(app: FastAPI, service: Service, meters: "_Meters") -> None:
    @app.get("/v1/images/{image_id}", summary="A thumbnail of an image that is in service", response_class=Response)
    def image(image_id: str, side: Annotated[int, Query(ge=16, le=1024)] = 320) -> Response:
        data = service.thumbnail(image_id, side)
        if data is None:
            raise UnknownError(f"image {image_id!r} is not shown by the build in service")
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "public, max-age=86400"})

    @app.get("/v1/catalogue", summary="What the build in service holds, and some images to start with")
    def catalogue(some: Annotated[int, Query(ge=0, le=100)] = 12) -> dict[str, Any]:
        return service.catalogue(some)

    @app.get("/healthz", summary="Whether the process lives")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether queries are answered")
    def readyz() -> dict[str, str]:
        if service.problem:
            raise NotReadyError(service.problem)
        return {"status": "ready", "build": service.loaded().manifest.path}

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    def metrics() -> Response:
        meters.ready.set(not service.problem)
        return Response(generate_latest(meters.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    def page(name: str) -> Response:
        text = (files("likeness.serving") / "web" / (name or "index.html")).read_bytes()
        pictures = "*" if service.settings.serve.photo_url else "'self'"
        policy = f"default-src 'self'; img-src {pictures} data: blob:; base-uri 'none'; frame-ancestors 'none'"
        headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        return Response(text, media_type=f"{_PAGE[name]}; charset=utf-8", headers=headers)

    for name in _PAGE:
        app.get(f"/{name}", include_in_schema=False)(lambda name=name: page(name))


def _wish(k: int, category: str, offset: int, min_score: float | None, distinct: bool) -> Wish:
    return Wish(k, category, offset, float("-inf") if min_score is None else min_score, distinct)


def _box(text: str) -> Box:
    if not text:
        return WHOLE
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"box {text[:80]!r} is not four numbers: left,top,right,bottom between 0 and 1") from None
    return left, top, right, bottom


class _Meters:
    """What Prometheus reads of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        spans = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
        self.stages = Histogram(
            "likeness_stage_seconds", "Seconds of a query by stage", ["stage"], registry=self.registry, buckets=spans
        )
        self.requests = Histogram(
            "likeness_request_seconds", "Seconds of a request", ["route"], registry=self.registry, buckets=spans
        )
        self.statuses = Counter("likeness_requests", "Requests by status", ["route", "status"], registry=self.registry)
        self.ready = Gauge("likeness_ready", "1 when queries are answered", registry=self.registry)

    def timed(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Counts the stages of an answer."""
        for stage, took in answer["took_ms"].items():
            self.stages.labels(stage).observe(took / 1000)
        return answer


def _problem(code: str, detail: str, request: Request | None = None, **more: Any) -> JSONResponse:
    status, title = CODES[code]
    told = {"type": f"urn:likeness:{code}", "title": title, "status": status, "detail": detail, "code": code, **more}
    if request:
        told["request_id"] = getattr(request.state, "request_id", "")
    return JSONResponse(told, status, media_type="application/problem+json")


def _refused(code: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    response = _problem(code, detail)
    response.headers.update(headers or {})
    return response


def _errors(app: FastAPI, log: Callable[[str], None]) -> None:
    @app.exception_handler(LikenessError)
    def known(request: Request, error: LikenessError) -> Response:
        kinds = {UnknownError: "unknown", UsageError: "bad_request", SpaceMismatch: "space_mismatch"}
        code = next((code for kind, code in kinds.items() if isinstance(error, kind)), "not_ready")
        if code == "not_ready" and not isinstance(error, ServiceError):
            log(json.dumps({"error": str(error)}))
        return _problem(code, str(error), request)

    @app.exception_handler(BadImage)
    def bad_image(request: Request, error: BadImage) -> Response:
        return _problem("bad_image", str(error), request, reason=error.reason)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        told = [{"where": ".".join(map(str, one["loc"])), "what": one["msg"]} for one in error.errors()]
        detail = "; ".join(f"{one['where']}: {one['what']}" for one in told[:5])
        return _problem("invalid", detail, request, errors=told[:20])

    @app.exception_handler(StarletteHTTPException)
    def other(request: Request, error: HTTPException) -> Response:
        code = {404: "unknown", 405: "method"}.get(error.status_code, "bad_request")
        return _problem(code, str(error.detail), request)

    @app.exception_handler(Exception)
    def fault(request: Request, error: Exception) -> Response:
        log(json.dumps({"request_id": getattr(request.state, "request_id", ""), "fault": repr(error)}))
        return _problem("internal", "see the service's log", request)


def _observed(app: FastAPI, meters: _Meters, log: Callable[[str], None]) -> None:
    @app.middleware("http")
    async def observe(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        named = request.headers.get("x-request-id", "")
        request.state.request_id = named if _REQUEST_ID.fullmatch(named) else uuid.uuid4().hex
        begun, status = time.perf_counter(), 500
        try:
            response = await follow(request)
            status = response.status_code
        finally:
            took = time.perf_counter() - begun
            route = getattr(request.scope.get("route"), "path", "none")
            meters.requests.labels(route).observe(took)
            meters.statuses.labels(route, status).inc()
            told = {"request_id": request.state.request_id, "route": route, "status": status}
            log(json.dumps(told | {"ms": round(1000 * took, 1)}))
        response.headers["X-Request-Id"] = request.state.request_id
        return response
