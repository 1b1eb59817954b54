"""Formats counts, durations, sizes and times for people."""

import datetime


def pluralize(number: int, one: str, many: str = "") -> str:
    """Formats a count with its noun: `1 photo`, `2,000 photos`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Formats seconds: `0.02 s`, `15.4 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def size(count: int) -> str:
    """Formats a number of bytes: `0.1 MB`, `2.4 GB`."""
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"


def timestamp(when: datetime.datetime) -> str:
    """Formats a time: `2026-11-21 09:23:47 UTC`."""
    return f"{when.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
