"""The OpenAPI contract: complete enough for generators of clients and for people."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from likeness.core.settings import Settings
from likeness.serving.http.app import create_app
from likeness.serving.http.auth import OPEN, new_key
from likeness.serving.service import Service

Schema = dict[str, Any]
OPERATIONS = {
    "POST /v1/search": "search_by_photo",
    "POST /v1/search/vectors": "search_by_vectors",
    "POST /v1/search/batch": "search_batch",
    "GET /v1/products/{product_id}/similar": "similar_products",
    "GET /v1/images/{image_id}": "thumbnail",
    "GET /v1/catalogue": "catalogue",
    "GET /healthz": "health",
    "GET /readyz": "readiness",
    "GET /metrics": "metrics",
}


def contract(**serve: Any) -> Schema:
    return create_app(Service(Settings.model_validate({"serve": serve}))).openapi()


@pytest.fixture(scope="module")
def published_contract() -> Schema:
    return contract(k_max=200, photos_max=3)


def operations(document: Schema) -> dict[str, Schema]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def numbers(schema: Any, place: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema of a number, with where it stands."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield place, schema
        for name, inner in schema.items():
            if name != "examples":
                yield from numbers(inner, f"{place}.{name}")
    elif isinstance(schema, list):
        for number, inner in enumerate(schema):
            yield from numbers(inner, f"{place}[{number}]")


def inputs(document: Schema) -> dict[str, Schema]:
    """The schemas of all parameters, and of all fields of bodies."""
    schemas = document["components"]["schemas"]
    schemas_by_name = {
        f"{name}.{parameter['name']}": parameter["schema"] | {"description": parameter.get("description", "")}
        for name, operation in operations(document).items()
        for parameter in operation.get("parameters", ())
    }
    for body in ("PhotoQuery", "VectorQuery", "BatchQuery"):
        schemas_by_name |= {f"{body}.{name}": schema for name, schema in schemas[body]["properties"].items()}
    return schemas_by_name


def test_operations_have_names_and_tags(published_contract: Schema) -> None:
    assert {name: one["operationId"] for name, one in operations(published_contract).items()} == OPERATIONS
    tags = {tag["name"] for tag in published_contract["tags"]}
    for operation in operations(published_contract).values():
        assert set(operation["tags"]) < tags
        assert operation["summary"]


def test_each_number_has_limits(published_contract: Schema) -> None:
    schemas = inputs(published_contract)
    limited = [(name, one) for name, schema in schemas.items() for name, one in numbers(schema, name)]
    assert len(limited) > 15
    for name, schema in limited:
        assert {"minimum", "maximum"} <= schema.keys(), name
    assert schemas["PhotoQuery.k"]["maximum"] == schemas["GET /v1/products/{product_id}/similar.k"]["maximum"] == 200
    assert schemas["PhotoQuery.offset"]["maximum"] == 199
    for name in ("Coverage", "Catalogue", "Problem"):
        for place, schema in numbers(published_contract["components"]["schemas"][name], name):
            assert "minimum" in schema, place


def test_an_upload_is_binary(published_contract: Schema) -> None:
    image = inputs(published_contract)["PhotoQuery.image"]
    assert image["items"] == {"type": "string", "format": "binary"}
    assert (image["minItems"], image["maxItems"]) == (1, 3)
    thumbnail = published_contract["paths"]["/v1/images/{image_id}"]["get"]["responses"]["200"]
    assert thumbnail["content"] == {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}


def test_lists_of_a_form_are_sent_value_by_value(published_contract: Schema) -> None:
    """Without this, openapi-generator joins the values by commas: two conditions become one that nothing meets."""
    form = published_contract["paths"]["/v1/search"]["post"]["requestBody"]["content"]["multipart/form-data"]
    lists = {
        name for name, one in inputs(published_contract).items() if name.startswith("Photo") and one["type"] == "array"
    }
    assert {f"PhotoQuery.{name}" for name in form["encoding"]} == lists - {"PhotoQuery.image"}
    assert all(one == {"style": "form", "explode": True} for one in form["encoding"].values())


def test_inputs_are_described_and_have_examples(published_contract: Schema) -> None:
    for name, schema in inputs(published_contract).items():
        assert schema["description"] or name.endswith("_id"), name
        filled = schema.get("examples") or "default" in schema or "null" in str(schema)
        assert filled or name.endswith((".image", ".space")), name
    for name, schema in published_contract["components"]["schemas"].items():
        if name in ("Result", "Coverage", "Category", "Problem"):
            for field, inner in schema["properties"].items():
                assert "examples" in inner or "default" in inner, f"{name}.{field}"


def test_forms_and_queries_have_no_null(published_contract: Schema) -> None:
    for name, schema in inputs(published_contract).items():
        assert name.startswith(("VectorQuery", "BatchQuery")) or "null" not in str(schema), name


@pytest.mark.parametrize("keys", [False, True])
def test_keys_are_declared(tmp_path: Path, keys: bool) -> None:
    new_key(tmp_path / "keys.txt", "shop")
    document = contract(keys=str(tmp_path / "keys.txt") if keys else "")
    schemes = document["components"]["securitySchemes"]
    assert {(one["type"], one.get("scheme", one.get("name"))) for one in schemes.values()} == {
        ("http", "bearer"),
        ("apiKey", "X-API-Key"),
    }
    assert ({} in document["security"]) != keys
    assert {name for one in document["security"] for name in one} == schemes.keys()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation.get("security") == ([] if path in OPEN else None)


def test_errors_are_problems(published_contract: Schema) -> None:
    for name, operation in operations(published_contract).items():
        statuses = {int(status) for status in operation["responses"]}
        assert {400, 401, 404, 405, 422, 429, 500, 503} <= statuses, name
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"]
                assert re.match(r"`\w+`: ", response["description"])


def test_the_contract_is_not_completed_twice() -> None:
    app = create_app(Service(Settings()))
    assert app.openapi() == app.openapi() == contract()
