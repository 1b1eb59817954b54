"""Searches with photos: clients take turns at decoding and encoding, so that none has more of it than others."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from starlette.concurrency import run_in_threadpool

from likeness.images.image import BadImage
from likeness.serving.http.fair_queue import FairQueue
from likeness.serving.photo_cost import is_costly
from likeness.serving.query_encoder import PhotoError
from likeness.serving.query_terms import PhotoTerm
from likeness.serving.responses import Answer
from likeness.serving.search_params import SearchParams
from likeness.serving.service import Service


class PhotoSearches:
    """Answers searches with photos, for one event loop.

    Costly photos have turns of their own, of which few run at once, at the lowest priority: they take memory, and the
    time that others leave.
    """

    def __init__(self, service: Service) -> None:
        cores = os.cpu_count() or 1
        turns = {False: 2 * cores, True: max(1, cores // 4)}
        self._service, self._queues = service, {costly: FairQueue(count) for costly, count in turns.items()}
        self._threads = ThreadPoolExecutor(sum(turns.values()), "photos")

    async def search(self, client: str, term: PhotoTerm, params: SearchParams) -> Answer:
        """Answers a search; its photos are decoded within `serve.deadline_ms` from now, waiting included.

        Raises:
            PhotoError: a photo cannot be used.
            OverloadedError: it was not this client's turn in time, or decoding took too long.
        """
        serve = self._service.settings.serve
        until = time.monotonic() + serve.deadline_ms / 1000
        try:
            costly = await run_in_threadpool(is_costly, term, serve.photo_limits)
        except BadImage as bad:
            raise PhotoError(bad) from None
        term = replace(term, until=until, costly=costly)
        async with self._queues[costly].turn(client, until):
            encoding = asyncio.get_running_loop().run_in_executor(self._threads, self._service.encode, term, params)
            query = await encoding
        return await run_in_threadpool(self._service.answer, query, params)
