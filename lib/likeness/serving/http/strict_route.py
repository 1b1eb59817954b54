"""Strict routes: a parameter that the route does not have, or that is given twice, is an error.   [fastapi]

FastAPI itself passes over the first, and takes the last of several values.
"""

import json
from asyncio import get_running_loop
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, get_origin

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, ImmutableMultiDict
from starlette.routing import request_response

_PREFIX = "/v1/"
_THREADS = 40
"""Queries of a `QueryRoute` that run at once, as many as Starlette has of others."""


class StrictRoute(APIRoute):
    """A route that refuses ambiguous and unknown parameters below /v1/; monitors and pages may add what they like."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route, behind the checks."""
        handle = self._unchecked_handler()
        if not self.path.startswith(_PREFIX):
            return handle
        in_query = dict(_parameters(self.dependant.query_params))
        in_body = dict(_parameters(self.dependant.body_params))

        async def checked(request: Request) -> Response:
            names = [name for name, _ in request.query_params.multi_items()]
            for name in names:
                if name not in in_query:
                    place = (
                        "it belongs into the body" if name in in_body else f"there are: {', '.join(in_query) or 'none'}"
                    )
                    error = {"type": "extra_forbidden", "loc": ("query", name), "msg": f"no such parameter; {place}"}
                    raise RequestValidationError([error])
            refuse_repeated(names, {name for name, repeated in in_query.items() if repeated})
            return await handle(_StrictRequest(request, {name for name, repeated in in_body.items() if repeated}))

        return checked

    def _unchecked_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return super().get_route_handler()


class QueryRoute(StrictRoute):
    """A strict route of a function with the parameters `request`, `query` and those of the path.

    `query` is a model, of the query string or of a form, which is validated at once. FastAPI would take it apart and
    look at each of its fields, which takes longer than a search does, and open contexts for dependencies, of which
    there are none.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.app = request_response(self.get_route_handler())

    def _unchecked_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        (field,) = [*self.dependant.query_params, *self.dependant.body_params]
        model, call, in_body = field.field_info.annotation, self.dependant.call, bool(self.dependant.body_params)
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        assert call
        lists = [name for name, repeated in _parameters([field]) if repeated]
        threads = ThreadPoolExecutor(_THREADS, self.name)  # anyio's take half of the time of a short query

        def validated(sent: ImmutableMultiDict[str, Any]) -> BaseModel:
            values = {**sent, **{name: sent.getlist(name) for name in lists if name in sent}}
            try:
                return model.model_validate(values)
            except ValidationError as error:
                place, errors = "body" if in_body else "query", error.errors(include_url=False)
                raise RequestValidationError([{**one, "loc": (place, *one["loc"])} for one in errors]) from None

        async def answer(request: Request) -> Response:
            form = await request.form() if in_body else None
            try:
                query = validated(request.query_params if form is None else form)
                run = partial(call, request=request, query=query, **request.path_params)
                if iscoroutinefunction(call):
                    response: Response = await run()
                else:
                    response = await get_running_loop().run_in_executor(threads, run)
                return response
            finally:
                if form:
                    await form.close()

        return answer


class _StrictRequest(Request):
    """A request whose form fields and JSON members are refused if they are given twice."""

    def __init__(self, request: Request, lists: set[str]) -> None:
        super().__init__(request.scope, request.receive)
        self._lists = lists

    async def json(self) -> Any:
        """The parsed body."""
        return json.loads(await self.body(), object_pairs_hook=_members)

    async def form(self, **limits: Any) -> FormData:  # type: ignore[override]
        """The parsed form."""
        form = await super().form(**limits)
        try:
            refuse_repeated((name for name, _ in form.multi_items()), self._lists)
        except HTTPException:
            await form.close()
            raise
        return form


def refuse_repeated(names: Iterable[str], lists: set[str]) -> None:
    """Checks that only lists among the names are given more than once.

    Raises:
        HTTPException: one is, status 400.
    """
    for name, count in Counter(names).items():
        if count > 1 and name not in lists:
            raise HTTPException(400, f"{name[:80]!r} is given {count} times; give it once")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    refuse_repeated((name for name, _ in pairs), set())
    return dict(pairs)


def _parameters(fields: Iterable[Any]) -> Iterator[tuple[str, bool]]:
    """Name of each parameter, those of models included, and whether it is a list."""
    for field in fields:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from ((name, get_origin(one.annotation) is list) for name, one in kind.model_fields.items())
        else:
            yield field.alias, get_origin(kind) is list
