"""Pages for people: the search page at / and that of the API at /docs; they load nothing from elsewhere.   [fastapi]

/docs is Swagger UI; its files are those of the package `fastapi-offline`.
"""

from collections.abc import Callable
from importlib.resources import files

from fastapi import FastAPI, Request, Response

from likeness.serving.http.caching import Content, static
from likeness.serving.service import Service

_WEB, _SWAGGER = files("likeness.serving") / "web", files("fastapi_offline") / "static"
_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_SEARCH_PAGE = {"": _WEB / "index.html"} | {
    file.name: file
    for file in _WEB.iterdir()
    if file.name.endswith((".js", ".css")) and not file.name.startswith("docs.")
}
_DOCS_PAGE = {
    "docs": _WEB / "docs.html",
    "docs/docs.js": _WEB / "docs.js",
    "docs/swagger-ui-bundle.js": _SWAGGER / "swagger-ui-bundle.js",
    "docs/swagger-ui.css": _SWAGGER / "swagger-ui.css",
}
PAGES = tuple(f"/{path}" for path in (*_SEARCH_PAGE, *_DOCS_PAGE))
"""Paths of the pages and of what they load."""
CONTRACT = "/v1/openapi.json"
"""Path of the API's description, which /docs shows."""


def add_pages(app: FastAPI, service: Service) -> None:
    """Adds the pages to an application."""
    pictures = "*" if service.settings.serve.photo_url else "'self'"
    for pages, policy in (
        (_SEARCH_PAGE, f"default-src 'self'; img-src {pictures} data: blob:"),
        (_DOCS_PAGE, "default-src 'self'; img-src 'self' data: blob:"),
    ):
        headers = (("Content-Security-Policy", f"{policy}; base-uri 'none'; frame-ancestors 'none'"),)
        for path, file in pages.items():
            kind = _KINDS[file.name.rpartition(".")[2]]
            content = Content(file.read_bytes(), f"{kind}; charset=utf-8", headers)
            app.get(f"/{path}", include_in_schema=False)(_endpoint(content))


def _endpoint(content: Content) -> Callable[[Request], Response]:
    def page(request: Request) -> Response:
        return static(request, content)

    return page
