"""The HTTP API and its pages: a `Service` in, a FastAPI application out.   [fastapi]

Uploads are kept in memory while they are answered, never in files.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Query, Request, Response
from pydantic import BaseModel

from likeness.core.errors import UsageError
from likeness.images.image import WHOLE
from likeness.serving.http.auth import AuthMiddleware, Keys, has_right
from likeness.serving.http.caching import Content, cacheable, static
from likeness.serving.http.clients import client_of
from likeness.serving.http.concurrency_limit import ConcurrencyLimitMiddleware
from likeness.serving.http.error_responses import PROBLEMS, FaultMiddleware, handle_errors, refusal
from likeness.serving.http.locations import Locations
from likeness.serving.http.middleware import CompressionMiddleware, CorsMiddleware, HeadMiddleware, HostMiddleware
from likeness.serving.http.openapi import JPEG, TEXT, complete_contract
from likeness.serving.http.pages import CONTRACT, add_pages
from likeness.serving.http.photo_searches import PhotoSearches
from likeness.serving.http.request_body import RequestBodyMiddleware, prepare_bodies
from likeness.serving.http.requests import BatchQuery, PhotoQuery, SearchQuery, VectorQuery
from likeness.serving.http.shared_counts import SharedCounts
from likeness.serving.http.strict_route import QueryRoute, StrictRoute
from likeness.serving.http.telemetry import Metrics, TelemetryMiddleware
from likeness.serving.loaded_build import NotReadyError, UnknownError
from likeness.serving.query_terms import PhotoTerm, ProductTerm, VectorTerm, query_vectors, read_box
from likeness.serving.responses import Answer, Answers, Catalogue, Ready
from likeness.serving.search_params import SearchParams
from likeness.serving.service import Service

_GZIP_BYTES, _GZIP_LEVEL = 1024, 4
_THUMBNAIL_S = 86_400


def create_app(
    service: Service, log: Callable[[str], None] = lambda line: None, counts: SharedCounts | None = None
) -> FastAPI:
    """The application of a started service.

    Args:
        service: answers the queries.
        log: gets a line of JSON for each request.
        counts: for limits that hold for several processes together; default: for this one.

    Raises:
        UsageError: the file of API keys (serve.keys) cannot be used.
    """
    app = FastAPI(
        title="likeness",
        version="1",
        description="Visual search: a photo, a product or a vector in, the products that look like it out.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=PROBLEMS,
    )
    settings = service.settings.serve
    keys, counts = Keys(Path(settings.keys)) if settings.keys else None, counts or SharedCounts()
    app.state.metrics = metrics = Metrics(service)
    prepare_bodies(settings)
    app.router.route_class = StrictRoute
    handle_errors(app, log, Locations(service.settings).masked)
    complete_contract(app, settings)
    _add_searches(app, service, metrics)
    _add_catalogue(app, service)
    _add_health(app, service, metrics)
    _add_contract(app)
    add_pages(app, service)
    # a request passes through these from the last to the first
    app.add_middleware(ConcurrencyLimitMiddleware, most=settings.at_once, counts=counts, refuse=refusal)
    app.add_middleware(RequestBodyMiddleware, settings=settings, counts=counts, refuse=refusal)
    app.add_middleware(AuthMiddleware, settings=settings, keys=keys, counts=counts, refuse=refusal)
    if settings.hosts:
        app.add_middleware(HostMiddleware, hosts=settings.hosts, refuse=refusal)
    app.add_middleware(CompressionMiddleware, minimum_size=_GZIP_BYTES, compresslevel=_GZIP_LEVEL)
    app.add_middleware(FaultMiddleware, log=log)
    if settings.cors:
        app.add_middleware(CorsMiddleware, origins=settings.cors, refuse=refusal)
    app.add_middleware(TelemetryMiddleware, metrics=metrics, log=log)
    app.add_middleware(HeadMiddleware)
    return app


def stop_with_server(app: FastAPI, *stop: Callable[[], None]) -> None:
    """Has functions called after the server's last answer; the signal that stops it may end the process right then."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for each in stop:
            each()

    app.router.lifespan_context = lifespan


def _add_searches(app: FastAPI, service: Service, metrics: Metrics) -> None:
    settings, locations, photo_searches = service.settings.serve, Locations(service.settings), PhotoSearches(service)

    def params(query: SearchQuery, request: Request) -> SearchParams:
        allowed = has_right(request.state, service.settings.serve.builds)
        if query.build and not allowed and not service.builds.serves(query.space, query.build):
            raise HTTPException(
                403, f"build {query.build!r} is not in service; serve.builds names the keys that may load others"
            )
        return query.params()

    def sent(answer: Answer) -> Answer:
        return locations.without(metrics.observe(answer))

    def excluded(request: Request) -> Any:
        """The fields of an answer that the caller has no right to."""
        return None if has_right(request.state, settings.uris) else {"results": {"__all__": {"uri"}}}

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
        return _json(sent(answer), excluded(request))

    app.router.add_api_route(
        "/v1/search",
        search,
        methods=["POST"],
        operation_id="search_by_photo",
        tags=["search"],
        summary="Search with a photo, or with several of one thing",
        response_model=Answer,
        route_class_override=QueryRoute,
    )

    @app.post(
        "/v1/search/vectors",
        operation_id="search_by_vectors",
        tags=["search"],
        summary="Search with vectors of one thing",
        response_model=Answer,
    )
    def search_vectors(request: Request, query: VectorQuery) -> Response:
        term = VectorTerm(query_vectors(query.vectors, query.space), query.space, query.combine)
        return _json(sent(service.search(term, params(query, request))), excluded(request))

    @app.post(
        "/v1/search/batch",
        operation_id="search_batch",
        tags=["search"],
        summary="Search with vectors, each by itself",
        response_model=Answers,
    )
    def search_batch(request: Request, query: BatchQuery) -> Response:
        answers = service.batch(query_vectors(query.vectors, query.space), params(query, request))
        hidden = excluded(request)
        return _json(Answers(answers=tuple(map(sent, answers))), hidden and {"answers": {"__all__": hidden}})

    def similar(request: Request, product_id: str, query: Annotated[SearchQuery, Query()]) -> Response:
        return _json(sent(service.search(ProductTerm(product_id), params(query, request))), excluded(request))

    app.router.add_api_route(
        "/v1/products/{product_id:path}/similar",
        similar,
        operation_id="similar_products",
        tags=["search"],
        summary="What looks like a product",
        response_model=Answer,
        route_class_override=QueryRoute,
    )


def _add_catalogue(app: FastAPI, service: Service) -> None:
    settings = service.settings.serve
    private = bool(settings.keys)

    @app.get(
        "/v1/images/{image_id}",
        operation_id="thumbnail",
        tags=["catalogue"],
        summary="A thumbnail of an image that is in service",
        response_class=Response,
        responses=JPEG,
    )
    def image(
        request: Request,
        image_id: str,
        side: Annotated[int, Query(ge=16, le=1024, description="pixels of a side, at most")] = 320,
    ) -> Response:
        data = service.thumbnail(image_id, side)
        if data is None:
            raise UnknownError(f"image {image_id!r} is not shown by the build in service")
        return cacheable(request, Content(data, "image/jpeg"), private, _THUMBNAIL_S)

    @app.get(
        "/v1/catalogue",
        operation_id="catalogue",
        tags=["catalogue"],
        summary="What the build in service holds, and some images to start with",
        response_model=Catalogue,
    )
    def catalogue(
        request: Request,
        some: Annotated[int, Query(ge=0, le=100, description="images to start with")] = 12,
        space: Annotated[str, Query(description="a feature space in service; the default one if empty")] = "",
    ) -> Response:
        contents = service.catalogue(some, space)
        excluded = None if has_right(request.state, settings.uris) else {"some": {"__all__": {"uri"}}}
        body = contents.model_dump_json(exclude=excluded).encode()
        return cacheable(request, Content(body, "application/json"), private)


def _add_health(app: FastAPI, service: Service, measured: Metrics) -> None:
    settings = service.settings.serve

    @app.get("/healthz", operation_id="health", tags=["operations"], summary="Whether the process lives")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", operation_id="readiness", tags=["operations"], summary="Whether queries are answered")
    def readyz() -> Ready:
        if service.problem:
            raise NotReadyError(service.problem)
        builds = [loaded.manifest.path for loaded in service.builds.in_service()]
        return Ready(status="ready", build=builds[0], builds=builds, checked_s=round(service.builds.age_s, 1))

    if settings.metrics_port:
        return

    @app.get(
        "/metrics",
        operation_id="metrics",
        tags=["operations"],
        summary="Figures for Prometheus",
        response_class=Response,
        responses=TEXT,
    )
    def metrics(request: Request) -> Response:
        if settings.keys and not has_right(request.state, settings.metrics):
            raise HTTPException(
                403, f"{request.state.caller} may not read metrics; serve.metrics names the keys that may"
            )
        return Response(measured.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_contract(app: FastAPI) -> None:
    @cache
    def contract() -> Content:
        return Content(json.dumps(app.openapi(), ensure_ascii=False).encode(), "application/json")

    @app.get(CONTRACT, include_in_schema=False)
    def openapi(request: Request) -> Response:
        return static(request, contract())


def _json(model: BaseModel, excluded: Any = None) -> Response:
    """The response with an answer, which no cache keeps."""
    body = model.model_dump_json(exclude=excluded)
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})
