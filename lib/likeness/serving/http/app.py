"""The HTTP API and the page: a `Service` in, a FastAPI application out.   [fastapi, prometheus-client]

Uploads are held in memory while they are answered.
"""

from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Form, Query, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest

from likeness.core.errors import UsageError
from likeness.images.image import WHOLE, Box
from likeness.serving.build_watcher import NotReadyError, UnknownError
from likeness.serving.http.auth import AuthMiddleware
from likeness.serving.http.body_limit import BodyLimitMiddleware
from likeness.serving.http.error_responses import PROBLEMS, contract, explain, refused
from likeness.serving.http.requests import BatchQuery, PhotoQuery, SearchQuery, VectorQuery
from likeness.serving.http.telemetry import Metrics, TelemetryMiddleware
from likeness.serving.responses import Answer, Answers, Catalogue
from likeness.serving.service import Service

_PAGE = {"": "text/html", "app.js": "text/javascript", "style.css": "text/css"}
_ANSWER: dict[int | str, dict[str, Any]] = {200: {"model": Answer}}
_SPARE = 1 << 20


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
        responses=PROBLEMS,
    )
    limits, given = service.settings.limits, service.settings.serve
    meters = Metrics()
    explain(app, log)
    contract(app)
    _queries(app, service, meters)
    _looks(app, service, meters)
    # each is asked before those above it
    app.add_middleware(BodyLimitMiddleware, most=given.photos_max * limits.max_bytes + _SPARE, refuse=refused)
    app.add_middleware(AuthMiddleware, settings=given, refuse=refused)
    app.add_middleware(TelemetryMiddleware, meters=meters, log=log)
    if given.cors:
        app.add_middleware(CORSMiddleware, allow_origins=given.cors, allow_methods=["GET", "POST"], allow_headers=["*"])
    return app


def _queries(app: FastAPI, service: Service, meters: Metrics) -> None:
    @app.post("/v1/search", summary="Search with a photo, or with several of one thing", responses=_ANSWER)
    def search(query: Annotated[PhotoQuery, Form(media_type="multipart/form-data")]) -> Response:
        most = service.settings.serve.photos_max
        if len(query.image) > most:
            raise UsageError(f"{len(query.image)} photos are given; serve.photos_max is {most}")
        photos = [one.file.read() for one in query.image]
        answer = service.photos(photos, query.wish(), query.build, _box(query.box), query.combine, query.looks)
        return JSONResponse(meters.timed(answer))

    @app.post("/v1/search/vectors", summary="Search with vectors of one thing", responses=_ANSWER)
    def search_vectors(query: VectorQuery) -> Response:
        answer = service.vectors(_rows(query), query.space, query.wish(), query.build, query.combine)
        return JSONResponse(meters.timed(answer))

    @app.post("/v1/search/batch", summary="Search with vectors, each by itself", responses={200: {"model": Answers}})
    def search_batch(query: BatchQuery) -> Response:
        answers = service.batch(_rows(query), query.space, query.wish(), query.build)
        return JSONResponse({"answers": [meters.timed(answer) for answer in answers]})

    @app.get("/v1/products/{product_id:path}/similar", summary="What looks like a product", responses=_ANSWER)
    def similar(product_id: str, query: Annotated[SearchQuery, Query()]) -> Response:
        return JSONResponse(meters.timed(service.product(product_id, query.wish(), query.build)))


def _looks(app: FastAPI, service: Service, meters: Metrics) -> None:
    @app.get("/v1/images/{image_id}", summary="A thumbnail of an image that is in service", response_class=Response)
    def image(image_id: str, side: Annotated[int, Query(ge=16, le=1024)] = 320) -> Response:
        data = service.thumbnail(image_id, side)
        if data is None:
            raise UnknownError(f"image {image_id!r} is not shown by the build in service")
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "public, max-age=86400"})

    @app.get(
        "/v1/catalogue",
        summary="What the build in service holds, and some images to start with",
        responses={200: {"model": Catalogue}},
    )
    def catalogue(some: Annotated[int, Query(ge=0, le=100)] = 12) -> dict[str, Any]:
        return service.catalogue(some)

    @app.get("/healthz", summary="Whether the process lives")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether queries are answered")
    def readyz() -> dict[str, str]:
        if service.current.problem:
            raise NotReadyError(service.current.problem)
        return {"status": "ready", "build": service.current.loaded().manifest.path}

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    def metrics() -> Response:
        meters.ready.set(not service.current.problem)
        return Response(generate_latest(meters.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    def page(name: str) -> Response:
        text = (files("likeness.serving") / "web" / (name or "index.html")).read_bytes()
        pictures = "*" if service.settings.serve.photo_url else "'self'"
        policy = f"default-src 'self'; img-src {pictures} data: blob:; base-uri 'none'; frame-ancestors 'none'"
        headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        return Response(text, media_type=f"{_PAGE[name]}; charset=utf-8", headers=headers)

    for name in _PAGE:
        app.get(f"/{name}", include_in_schema=False)(lambda name=name: page(name))


def _rows(query: BatchQuery) -> np.ndarray:
    if len({len(row) for row in query.vectors}) != 1:
        raise UsageError("the vectors are not of one length")
    return np.array(query.vectors, np.float32)


def _box(text: str) -> Box:
    if not text:
        return WHOLE
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"box {text[:80]!r} is not four numbers: left,top,right,bottom between 0 and 1") from None
    return left, top, right, bottom
