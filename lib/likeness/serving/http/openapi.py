"""The OpenAPI contract: what FastAPI derives from the routes, completed so that generated clients work.   [fastapi]

Uploads are `format: binary`, which generators know; numbers have the limits that the settings give; there are
examples, tags and the ways to send a key.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from likeness.core.settings import Serve
from likeness.serving.http.auth import OPEN

Schema = dict[str, Any]
TAGS = [
    {"name": "search", "description": "Nearest products to a photo, a product or vectors"},
    {"name": "catalogue", "description": "What is searched, and how it looks"},
    {"name": "operations", "description": "Health and figures"},
]
_BINARY = {"type": "string", "format": "binary"}
JPEG: dict[int | str, Schema] = {
    200: {"description": "A JPEG", "content": {"image/jpeg": {"schema": _BINARY}}},
    304: {"description": "As the caller has it: `If-None-Match` names its ETag"},
}
TEXT: dict[int | str, Schema] = {
    200: {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "a key that `likeness key` made"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the same key"},
}
_EXAMPLES: Schema = {
    "k": 10,
    "category": "auto",
    "offset": 0,
    "min_score": 0,
    "near_duplicate": 0.98,
    "min_coverage": 0.5,
    "box": "0,0,1,1",
    "combine": "best",
    "vectors": [[0.12, 0.0, 1.7]],
    "product_id": "0d3cf39f78f1",
    "image_id": "788f21a546d5cb6a86ce0875c17fbfd550090a2defc1b2b3daf9eea3761b1309",
    "side": 320,
    "some": 12,
}
"""Values that may stand in a form as they are: /docs fills them in, so that none narrows a search by much."""


def complete_contract(app: FastAPI, settings: Serve) -> None:
    """Makes the contract of an application complete; it is made once."""
    generate = app.openapi

    def openapi() -> Schema:
        if app.openapi_schema is None:
            _complete(generate(), settings)
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(contract: Schema, settings: Serve) -> None:
    """Completes a contract in place."""
    schemas = contract["components"]["schemas"]
    contract["tags"] = TAGS
    contract["components"]["securitySchemes"] = _SCHEMES
    keys: list[Schema] = [{name: []} for name in _SCHEMES]
    contract["security"] = keys if settings.keys else [{}, *keys]
    for path, operation in _operations(contract):
        if path in OPEN:
            operation["security"] = []
        for status, response in operation["responses"].items():
            if int(status) >= 400:  # FastAPI adds JSON beside problem+json
                response["content"].pop("application/json", None)
        for parameter in operation.get("parameters", ()):
            _complete_parameter(parameter["name"], parameter["schema"], settings)
            _drop_null(parameter["schema"])
    for name in ("PhotoQuery", "VectorQuery", "BatchQuery"):
        for field, schema in schemas[name]["properties"].items():
            _complete_parameter(field, schema, settings)
            if name == "PhotoQuery":
                _drop_null(schema)
    lists = {"style": "form", "explode": True}  # a part for each value, where generators would join them by commas
    form = contract["paths"]["/v1/search"]["post"]["requestBody"]["content"]["multipart/form-data"]
    form["encoding"] = {"where": lists, "looks": lists}
    image = schemas["PhotoQuery"]["properties"]["image"]
    image |= {"items": _BINARY, "minItems": 1, "maxItems": settings.photos_max}


def _operations(contract: Schema) -> Iterator[tuple[str, Schema]]:
    for path, operations in contract["paths"].items():
        for operation in operations.values():
            yield path, operation


def _complete_parameter(name: str, schema: Schema, settings: Serve) -> None:
    """Adds limits and an example to a parameter, or to the field of a body of that name."""
    if name == "k":
        schema["maximum"] = settings.k_max
    elif name == "offset":
        schema["maximum"] = settings.k_max - 1
    elif name == "vectors":
        schema["items"]["minItems"] = 1
    elif name == "image_id":
        schema["pattern"] = "^[0-9a-f]{64}$"
    if name in _EXAMPLES:
        schema["examples"] = [_EXAMPLES[name]]


def _drop_null(schema: Schema) -> None:
    """Takes `null` out of what may be left out: neither a query nor a form can carry it."""
    choices = schema.pop("anyOf", [])
    for choice in choices:
        if choice != {"type": "null"}:
            schema |= choice
