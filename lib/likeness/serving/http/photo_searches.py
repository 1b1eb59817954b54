"""Searches with photos: clients take turns at decoding and encoding, so that none has more of it than others."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from likeness.serving.http.fair_queue import FairQueue
from likeness.serving.photo_cost import is_costly
from likeness.serving.query_terms import PhotoTerm
from likeness.serving.responses import Answer
from likeness.serving.search_params import SearchParams
from likeness.serving.service import Service

_OTHER_THREADS = 40
"""Queries whose headers are read, or whose vectors are searched, at once."""


class PhotoSearches:
    """Answers searches with photos, for one event loop.

    Costly photos have turns of their own, of which few run at once, at the lowest priority: they take memory, and the
    time that others leave.
    """

    def __init__(self, service: Service) -> None:
        cores = os.cpu_count() or 1
        turns = {False: 2 * cores, True: max(1, cores // 4)}
        self._service, self._queues = service, {costly: FairQueue(count) for costly, count in turns.items()}
        self._encoding = ThreadPoolExecutor(sum(turns.values()), "photos")
        self._others = ThreadPoolExecutor(_OTHER_THREADS, "photo searches")

    async def search(self, client: str, term: PhotoTerm, params: SearchParams) -> Answer:
        """Answers a search; its photos are decoded within `serve.deadline_ms` from now, waiting included.

        Raises:
            PhotoError: a photo cannot be used.
            OverloadedError: it was not this client's turn in time, or decoding took too long.
        """
        serve = self._service.settings.serve
        until, run = time.monotonic() + serve.deadline_ms / 1000, asyncio.get_running_loop().run_in_executor
        costly = await run(self._others, is_costly, term, serve.photo_limits)
        term = replace(term, until=until, costly=costly)
        async with self._queues[costly].turn(client, until):
            query = await run(self._encoding, self._service.encode, term, params)
        return await run(self._others, self._service.answer, query, params)
