"""Places of a service's stores: texts in, the same texts without paths of the server out."""

import re
from pathlib import Path

from likeness.core import uris
from likeness.core.settings import Settings
from likeness.serving.responses import Answer

_PATH = re.compile(r"^[a-z]+://[^/]*")
"""What stands before the path of a URI."""


class Locations:
    """The places that a service reads and writes, which answers over HTTP call by what they are."""

    def __init__(self, settings: Settings) -> None:
        """Reads the places from the settings."""
        places = {
            uris.canonical(settings.root): "ROOT",
            settings.keyed.uri: "the keyed store",
            settings.warehouse.uri: "the tables",
            settings.extract.cache: "the cache",
            str(Path(settings.extract.cache).expanduser()): "the cache",
            settings.source.uri: "the source",
            settings.serve.keys: "the keys",
        }
        paths = {_PATH.sub("", place): name for place, name in places.items()}
        named = {place.rstrip("/"): name for place, name in (paths | places).items()}
        self._places = [(one, named[one]) for one in sorted(named, key=len, reverse=True) if _is_telling(one)]

    def masked(self, text: str) -> str:
        """A text without these places."""
        for place, name in self._places:
            text = text.replace(place, name)
        return text

    def without(self, answer: Answer) -> Answer:
        """An answer whose reasons for what it lacks do not name these places."""
        if not answer.coverage.degraded:
            return answer
        degraded = tuple(map(self.masked, answer.coverage.degraded))
        return answer.model_copy(update={"coverage": answer.coverage.model_copy(update={"degraded": degraded})})


def _is_telling(place: str) -> bool:
    """Whether a text with this in it can only mean the place: `/`, or a folder named `var`, may be in any text."""
    return "/" in place and len(place) >= 4
