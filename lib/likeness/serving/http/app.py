"""The HTTP API and the page: a `Service` in, a FastAPI application out.   [fastapi, prometheus-client]

Uploads are kept in memory while they are answered, never in files.
"""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Form, HTTPException, Query, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import generate_latest
from pydantic import BaseModel

from likeness.core.errors import UsageError
from likeness.images.image import WHOLE
from likeness.serving.http.auth import AuthMiddleware, Keys
from likeness.serving.http.clients import client_of
from likeness.serving.http.concurrency_limit import ConcurrencyLimitMiddleware
from likeness.serving.http.error_responses import PROBLEMS, describe_errors, handle_errors, refusal
from likeness.serving.http.photo_searches import PhotoSearches
from likeness.serving.http.request_body import RequestBodyMiddleware, prepare_bodies
from likeness.serving.http.requests import BatchQuery, PhotoQuery, SearchQuery, VectorQuery
from likeness.serving.http.strict_route import StrictRoute
from likeness.serving.http.telemetry import Metrics, TelemetryMiddleware
from likeness.serving.loaded_build import NotReadyError, UnknownError
from likeness.serving.query_terms import PhotoTerm, ProductTerm, VectorTerm, query_vectors, read_box
from likeness.serving.responses import Answer, Answers, Catalogue, Ready
from likeness.serving.search_params import SearchParams
from likeness.serving.service import Service

_SCRIPTS = ("app.js", "messages.js", "photo.js", "service.js", "view.js")
_PAGE = {"": "text/html", "style.css": "text/css"} | dict.fromkeys(_SCRIPTS, "text/javascript")


def create_app(service: Service, log: Callable[[str], None] = lambda line: None) -> FastAPI:
    """The application of a started service.

    Args:
        service: answers the queries.
        log: gets a line of JSON for each request.

    Raises:
        UsageError: the file of API keys (serve.keys) cannot be used.
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
    settings = service.settings.serve
    metrics, keys = Metrics(), Keys(Path(settings.keys)) if settings.keys else None
    prepare_bodies(settings)
    app.router.route_class = StrictRoute
    handle_errors(app, log)
    describe_errors(app)
    _add_searches(app, service, metrics)
    _add_catalogue(app, service)
    _add_health(app, service, metrics)
    _add_page(app, service)
    # a request passes through these from the last to the first
    app.add_middleware(ConcurrencyLimitMiddleware, most=settings.at_once, refuse=refusal)
    app.add_middleware(RequestBodyMiddleware, settings=settings, refuse=refusal)
    app.add_middleware(AuthMiddleware, settings=settings, keys=keys, refuse=refusal)
    app.add_middleware(TelemetryMiddleware, metrics=metrics, log=log)
    if settings.cors:
        origins = settings.cors
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    return app


def _add_searches(app: FastAPI, service: Service, metrics: Metrics) -> None:
    photo_searches = PhotoSearches(service)

    def params(query: SearchQuery, request: Request) -> SearchParams:
        allowed = {"*", request.state.caller} & set(service.settings.serve.builds)
        if query.build and not allowed and not service.builds.serves(query.space, query.build):
            raise HTTPException(
                403, f"build {query.build!r} is not in service; serve.builds names the keys that may load others"
            )
        return query.params()

    @app.post("/v1/search", summary="Search with a photo, or with several of one thing", response_model=Answer)
    async def search(
        request: Request, query: Annotated[PhotoQuery, Form(media_type="multipart/form-data")]
    ) -> Response:
        most = service.settings.serve.photos_max
        if len(query.image) > most:
            raise UsageError(f"{len(query.image)} photos are given; serve.photos_max is {most}")
        photos = [await upload.read() for upload in query.image]
        for upload in query.image:
            await upload.close()
        term = PhotoTerm(photos, read_box(query.box.split(",")) if query.box else WHOLE, query.combine, query.looks)
        answer = await photo_searches.search(client_of(request.scope), term, params(query, request))
        return _json(metrics.observe(answer))

    @app.post("/v1/search/vectors", summary="Search with vectors of one thing", response_model=Answer)
    def search_vectors(request: Request, query: VectorQuery) -> Response:
        term = VectorTerm(query_vectors(query.vectors, query.space), query.space, query.combine)
        return _json(metrics.observe(service.search(term, params(query, request))))

    @app.post("/v1/search/batch", summary="Search with vectors, each by itself", response_model=Answers)
    def search_batch(request: Request, query: BatchQuery) -> Response:
        answers = service.batch(query_vectors(query.vectors, query.space), params(query, request))
        return _json(Answers(answers=tuple(map(metrics.observe, answers))))

    @app.get("/v1/products/{product_id:path}/similar", summary="What looks like a product", response_model=Answer)
    def similar(request: Request, product_id: str, query: Annotated[SearchQuery, Query()]) -> Response:
        return _json(metrics.observe(service.search(ProductTerm(product_id), params(query, request))))


def _add_catalogue(app: FastAPI, service: Service) -> None:
    @app.get("/v1/images/{image_id}", summary="A thumbnail of an image that is in service", response_class=Response)
    def image(image_id: str, side: Annotated[int, Query(ge=16, le=1024)] = 320) -> Response:
        data = service.thumbnail(image_id, side)
        if data is None:
            raise UnknownError(f"image {image_id!r} is not shown by the build in service")
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "public, max-age=86400"})

    summary = "What the build in service holds, and some images to start with"

    @app.get("/v1/catalogue", summary=summary, response_model=Catalogue)
    def catalogue(some: Annotated[int, Query(ge=0, le=100)] = 12, space: str = "") -> Response:
        return _json(service.catalogue(some, space))


def _add_health(app: FastAPI, service: Service, measured: Metrics) -> None:
    @app.get("/healthz", summary="Whether the process lives")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether queries are answered")
    def readyz() -> Ready:
        if service.problem:
            raise NotReadyError(service.problem)
        builds = [loaded.manifest.path for loaded in service.builds.in_service()]
        return Ready(status="ready", build=builds[0], builds=builds, checked_s=round(service.builds.age_s, 1))

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    def metrics() -> Response:
        measured.ready.set(not service.problem)
        measured.builds_age.set(service.builds.age_s)
        measured.hidden_age.set(service.hidden.age_s)
        return Response(generate_latest(measured.registry), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI, service: Service) -> None:
    def page(name: str) -> Response:
        text = (files("likeness.serving") / "web" / (name or "index.html")).read_bytes()
        pictures = "*" if service.settings.serve.photo_url else "'self'"
        policy = f"default-src 'self'; img-src {pictures} data: blob:; base-uri 'none'; frame-ancestors 'none'"
        headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        return Response(text, media_type=f"{_PAGE[name]}; charset=utf-8", headers=headers)

    for name in _PAGE:
        app.get(f"/{name}", include_in_schema=False)(lambda name=name: page(name))


def _json(model: BaseModel) -> Response:
    return Response(model.model_dump_json(), media_type="application/json")
