"""Relevance judgements: a CSV of queries and products in; queries with relevances, recall and nDCG out.

A row has a query, a product_id and its relevance (1 if empty; 0: not relevant). All bad rows are reported at once.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from likeness.core.errors import UsageError

_COLUMNS = ("query", "product_id")


@dataclass(frozen=True)
class Problem:
    """A bad line of the file: what is wrong, and the remedy."""

    line: int
    message: str


@dataclass(frozen=True)
class Judgement:
    """One query, the number of its first line, and the relevance of its products."""

    query: str
    line: int
    relevances: dict[str, float] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def read(path: Path) -> tuple[list[Judgement], list[Problem]]:
    """Reads the queries of a file in its order, and its bad rows.

    Raises:
        UsageError: the file cannot be read, or lacks a column or any row.
    """
    judged: dict[str, Judgement] = {}
    problems = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, values in _rows(path, csv.DictReader(file, strict=True)):
                message = _add_row(judged, line, values)
                problems += [Problem(line, message)] if message else []
    except OSError as error:
        raise UsageError(f"--judgements {path}: {error.strerror}; name a CSV of query, product_id, relevance") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"--judgements {path} cannot be read: {error}; it must be a CSV in UTF-8") from None
    if not judged and not problems:
        raise UsageError(f"--judgements {path} has no rows; write at least one query with a product_id")
    unanswerable = [
        Problem(one.line, f"query {one.query!r} has no product of a relevance above 0; judge one that answers it")
        for one in judged.values()
        if not any(one.relevances.values())
    ]
    return list(judged.values()), problems + unanswerable


def refuse(path: Path, problems: Sequence[Problem]) -> None:
    """Reports all problems at once, in the order of their lines.

    Raises:
        UsageError: there are any.
    """
    if problems:
        lines = "\n".join(f"  line {one.line}: {one.message}" for one in sorted(problems, key=lambda one: one.line))
        count = f"{len(problems)} bad row{'s' if len(problems) > 1 else ''}"
        raise UsageError(f"--judgements {path} has {count}; nothing is evaluated:\n{lines}")


def recall(ranking: Sequence[str], relevances: Mapping[str, float], k: int) -> float:
    """The share of the relevant products (above 0) among the first k of a ranking."""
    relevant = {product_id for product_id, relevance in relevances.items() if relevance > 0}
    return len(relevant.intersection(ranking[:k])) / len(relevant)


def ndcg(ranking: Sequence[str], relevances: Mapping[str, float], k: int) -> float:
    """The discounted gain of the first k of a ranking (nDCG), as a share of the best possible.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002), the gain being the relevance
    itself; the discount log2(1 + place) is that of Burges and others, "Learning to rank using gradient descent" (2005).
    """
    gained = _discounted([relevances.get(product_id, 0.0) for product_id in ranking[:k]])
    return gained / _discounted(sorted(relevances.values(), reverse=True)[:k])


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(1 + place) for place, gain in enumerate(gains, 1))


def _rows(path: Path, reader: "csv.DictReader[str]") -> Iterator[tuple[int, dict[str | None, str | None]]]:
    """(line, values) of each row that is not empty."""
    names = reader.fieldnames or ()
    if missing := [name for name in _COLUMNS if name not in names]:
        raise UsageError(
            f"--judgements {path} has no column {' and no '.join(missing)} but {', '.join(names) or 'none at all'}; "
            "its first line must be query,product_id or query,product_id,relevance"
        )
    for values in reader:
        yield reader.line_num, dict(values)


def _add_row(judged: dict[str, Judgement], line: int, values: Mapping[str | None, str | list[str] | None]) -> str:
    """Adds a row to the judgements; returns what is wrong with it, or an empty text."""
    if None in values:
        return f"{len(values[None] or ())} more fields than the header; put text that holds commas in quotes"
    query, product_id, text = (str(values.get(name) or "").strip() for name in (*_COLUMNS, "relevance"))
    if not query or not product_id:
        return f"no {'query' if not query else 'product_id'}; fill it in, or delete the line"
    try:
        relevance = float(text or 1)
    except ValueError:
        relevance = math.nan
    if not 0 <= relevance < math.inf:
        return f"relevance {text!r} is no number of 0 or more; write one, or leave it empty for 1"
    entry = judged.setdefault(query, Judgement(query, line))
    if product_id in entry.relevances:
        return f"product {product_id!r} was judged for {query!r} in line {entry.lines[product_id]}; delete one of them"
    entry.relevances[product_id], entry.lines[product_id] = relevance, line
    return ""
