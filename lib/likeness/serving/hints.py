"""Hints: what a search has seen in, why its answer may not be what was meant, and what to change, out."""

import difflib
from collections.abc import Collection, Sequence

from likeness.index.shard import Hit
from likeness.serving.search_params import SearchParams

_MOST_NAMES, _MOST_COMPARED, _LONG = 10, 1000, 80


def meant(name: str, names: Collection[str]) -> str:
    """The one of the names that differs only in case or outer spaces, else the most similar one; empty if none is."""
    plain = {one.strip().casefold(): one for one in names}
    key = name.strip().casefold()
    near = difflib.get_close_matches(key, list(plain)[:_MOST_COMPARED] if len(key) <= _LONG else [], n=1, cutoff=0.75)
    return plain.get(key) or (plain[near[0]] if near else "")


def suggest(name: str, names: Collection[str]) -> str:
    """Which of the names was meant by one that is none of them, as `did you mean 'red'?`; else what names there are."""
    if best := meant(name, names):
        return f"did you mean {best!r}?"
    first = sorted(names)[:_MOST_NAMES]
    more = f" and {len(names) - len(first):,} more" if len(names) > len(first) else ""
    return f"there are: {', '.join(first) or 'none'}{more}"


def explain_no_results(params: SearchParams, nearest: Sequence[Hit], passed: int, categories: Sequence[str]) -> str:
    """Why a search has no results.

    Args:
        params: of the search.
        nearest: the nearest images, before filters.
        passed: how many of them pass the filters, those of pages before included.
        categories: those searched.
    """
    if passed:
        return f"offset {params.offset} is past the last of {passed} results"
    if nearest and nearest[0].score < params.min_score:
        return f"min_score {params.min_score:g} leaves out every result: the best score is {nearest[0].score:.4f}"
    names = ", ".join(map(repr, categories[:3])) + (f" and {len(categories) - 3:,} more" if len(categories) > 3 else "")
    images = f"none of the {len(nearest):,} nearest images" if nearest else "no image"
    return f"{images} of category {names} passes: they are hidden, or left out by the parameters"
