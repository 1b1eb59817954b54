"""The HTTP API and the page: a `Service` in, a FastAPI application out.   [fastapi, prometheus-client]

Uploads are held in memory while they are answered.
"""

from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Form, Query, Response, UploadFile
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import generate_latest
from pydantic import BaseModel, Field

from likeness.answers import Answer, Catalogue
from likeness.errors import UsageError
from likeness.images import WHOLE, Box
from likeness.serving.bodies import Bodies
from likeness.serving.current import NotReadyError, UnknownError
from likeness.serving.keys import Doorkeeper
from likeness.serving.observed import Meters, Observed
from likeness.serving.problems import PROBLEMS, contract, explain, refused
from likeness.serving.root import Wish
from likeness.serving.service import Combine, Service

_PAGE = {"": "text/html", "app.js": "text/javascript", "style.css": "text/css"}
_ANSWER: dict[int | str, dict[str, Any]] = {200: {"model": Answer}}
_SPARE = 1 << 20

K = Annotated[int, Query(ge=1, description="results wanted")]
Category = Annotated[str, Query(description="auto (the best predicted), all, or a name")]
Offset = Annotated[int, Query(ge=0, description="results to pass over: those of pages before")]
MinScore = Annotated[float | None, Query(allow_inf_nan=False, description="results below it are left out")]
Distinct = Annotated[bool, Query(description="one result a product")]
MinCoverage = Annotated[float, Query(ge=0, le=1, description="share of the shards asked that has to answer")]
NearDuplicate = Annotated[
    float | None, Query(ge=0, le=1, description="results whose cosine to a better one is so much or more are left out")
]
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
    min_coverage: float = Field(0, ge=0, le=1)
    near_duplicate: float | None = Field(None, ge=0, le=1)
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
        responses=PROBLEMS,
    )
    limits, given = service.settings.limits, service.settings.serve
    meters = Meters()
    explain(app, log)
    contract(app)
    _queries(app, service, meters)
    _looks(app, service, meters)
    # each is asked before those above it
    app.add_middleware(Bodies, most=given.photos_max * limits.max_bytes + _SPARE, refuse=refused)
    app.add_middleware(Doorkeeper, settings=given, refuse=refused)
    app.add_middleware(Observed, meters=meters, log=log)
    if given.cors:
        app.add_middleware(CORSMiddleware, allow_origins=given.cors, allow_methods=["GET", "POST"], allow_headers=["*"])
    return app


def _queries(app: FastAPI, service: Service, meters: Meters) -> None:
    @app.post("/v1/search", summary="Search with a photo, or with several of one thing", responses=_ANSWER)
    def search(
        image: Annotated[list[UploadFile], File(description="one photo or several")],
        k: Annotated[int, Form(ge=1)] = 10,
        category: Annotated[str, Form()] = "auto",
        box: Annotated[str, Form(description="left,top,right,bottom of the part that is meant, between 0 and 1")] = "",
        offset: Annotated[int, Form(ge=0)] = 0,
        min_score: Annotated[float | None, Form(allow_inf_nan=False)] = None,
        distinct: Annotated[bool, Form()] = False,
        min_coverage: Annotated[float, Form(ge=0, le=1)] = 0,
        near_duplicate: Annotated[float | None, Form(ge=0, le=1)] = None,
        combine: Annotated[Combine, Form(description="of several photos: the best of each, or their mean")] = "best",
        build: Annotated[str, Form()] = "",
    ) -> dict[str, Any]:
        most = service.settings.serve.photos_max
        if len(image) > most:
            raise UsageError(f"{len(image)} photos are given; serve.photos_max is {most}")
        photos = [one.file.read() for one in image]
        wish = _wish(k, category, offset, min_score, distinct, min_coverage, near_duplicate)
        return meters.timed(service.photos(photos, wish, build, _box(box), combine))

    @app.post("/v1/search/vectors", summary="Search with vectors", responses=_ANSWER)
    def search_vectors(query: VectorQuery) -> dict[str, Any]:
        if len({len(row) for row in query.vectors}) != 1:
            raise UsageError("the vectors are not of one length")
        vectors = np.array(query.vectors, np.float32)
        wish = _wish(**query.model_dump(include=set(Wish.__dataclass_fields__)))
        return meters.timed(service.vectors(vectors, query.space, wish, query.build, query.combine))

    @app.get("/v1/products/{product_id:path}/similar", summary="What looks like a product", responses=_ANSWER)
    def similar(
        product_id: str,
        k: K = 10,
        category: Category = "auto",
        offset: Offset = 0,
        min_score: MinScore = None,
        distinct: Distinct = False,
        min_coverage: MinCoverage = 0,
        near_duplicate: NearDuplicate = None,
        build: BuildName = "",
    ) -> dict[str, Any]:
        wish = _wish(k, category, offset, min_score, distinct, min_coverage, near_duplicate)
        return meters.timed(service.product(product_id, wish, build))


def _looks(app: FastAPI, service: Service, meters: Meters) -> None:
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


def _wish(
    k: int,
    category: str,
    offset: int,
    min_score: float | None,
    distinct: bool,
    min_coverage: float,
    near_duplicate: float | None,
) -> Wish:
    """What is not asked for is at the end of its range."""
    least = float("-inf") if min_score is None else min_score
    most = float("inf") if near_duplicate is None else near_duplicate
    return Wish(k, category, offset, least, distinct, min_coverage, most)


def _box(text: str) -> Box:
    if not text:
        return WHOLE
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"box {text[:80]!r} is not four numbers: left,top,right,bottom between 0 and 1") from None
    return left, top, right, bottom
