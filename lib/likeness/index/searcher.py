"""Search of one index: filters, search parameters and threads.   [faiss]"""

from typing import Any

import faiss
import numpy as np

from likeness.index.kinds import IndexParams, Kind

_faiss: Any = faiss  # its type stubs know few search parameters
_BLAS_FROM = {False: 4, True: _faiss.cvar.distance_compute_blas_threshold}
"""Queries from which a scan is one product of matrices, by whether the metric is l2: there it loses digits."""
_SCANNED = 1 << 22
"""Values of allowed vectors up to which a scan of them all is the fastest search."""
_RARE = 0.02
"""Share of allowed vectors below which an index finds too few of them."""
_MOST, _SPARE = 0.9, 4
"""Share of allowed vectors from which finding a few more, and dropping some, is the fastest search."""
Nearest = tuple[np.ndarray, np.ndarray]
"""Scores float32 and rows int64, each (q, k), the nearest first."""


class Searcher:
    """Search of one index: queries in, scores and rows out. A row is a vector's position in the index."""

    def __init__(self, index: Any, kind: Kind, index_params: IndexParams, metric: str) -> None:
        self._whole, self._kind, self._params, self._metric = index, kind, index_params, metric
        self._unfiltered: dict[int, Any] = {}  # parameters by k: creating them takes as long as projecting a query
        inner: Any = faiss.downcast_index(index.index)
        refined = isinstance(inner, faiss.IndexRefine)
        self._index, self._vectors = inner, faiss.downcast_index(inner.refine_index) if refined else inner

    @property
    def rows(self) -> int:
        """The number of vectors in the index."""
        return int(self._whole.ntotal)

    def nearest(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Nearest:
        """Finds the nearest rows of each query: scores float32 and rows int64, each (q, k), the nearest first.

        The row is -1 where the index found fewer.

        Args:
            queries: prepared, float32 (q, dim).
            k: rows of a query; never more than there are.
            allowed: bool (rows,), the rows that may be found; None for all.
        """
        if allowed is None:
            return self._search_all(queries, min(k, self.rows))
        count = int(np.count_nonzero(allowed))
        if not count:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        share = count / self.rows
        search = self._search_then_filter if share >= _MOST else self._search_filtered
        return search(queries, min(k, count), allowed, share)

    def _search_then_filter(self, queries: np.ndarray, k: int, allowed: np.ndarray, share: float) -> Nearest:
        """Finds a few more than k rows and drops those not allowed: as fast as without a filter."""
        more = min(self.rows, k + max(_SPARE, int(_SPARE * k * (1 - share))))
        scores, rows = self._search_all(queries, more)
        good = (rows >= 0) & allowed[rows]
        order = np.argsort(~good, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
        short = good.sum(axis=1) < k
        if short.any():
            scores[short], rows[short] = self._search_filtered(queries[short], k, allowed, share)
        return scores, rows

    def _search_filtered(self, queries: np.ndarray, k: int, allowed: np.ndarray, share: float) -> Nearest:
        """Lets the index skip rows that are not allowed, or scans those that are."""
        selector = _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if not self._kind.filters or share < _RARE or share * self.rows * queries.shape[1] <= _SCANNED:
            return self._search(self._vectors, queries, k, _faiss.SearchParameters(sel=selector))
        # an index visits as many rows as without the filter, and may keep only this share of them
        params = {name: value if name == "refine" else int(value / share) for name, value in self._params.items()}
        return self._search(self._index, queries, k, self._search_parameters(k, params, selector))

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The prepared vectors of rows, float32 (n, dim), as exactly as the index stores them."""
        return np.asarray(self._vectors.reconstruct_batch(rows))

    def _search_all(self, queries: np.ndarray, k: int) -> Nearest:
        if k not in self._unfiltered:
            self._unfiltered[k] = self._search_parameters(k, self._params, None)
        return self._search(self._index, queries, k, self._unfiltered[k])

    def _search_parameters(self, k: int, params: IndexParams, selector: Any) -> Any:
        if "refine" in params:  # no more candidates than rows: with more, some kinds return a missing row first
            params = {**params, "refine": min(params["refine"], self.rows / k)}
        return self._kind.search_parameters(params, k, selector)

    def _search(self, index: Any, queries: np.ndarray, k: int, parameters: Any) -> Nearest:
        _faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM[self._metric == "l2"]
        threads = faiss.omp_get_max_threads()
        if len(queries) == 1:  # FAISS would spread the projection over all cores and wait for the slowest
            faiss.omp_set_num_threads(1)
        try:
            scores, rows = index.search(queries, k, params=parameters)
        finally:
            faiss.omp_set_num_threads(threads)
        return (-np.sqrt(np.maximum(scores, 0)) if self._metric == "l2" else scores), rows
