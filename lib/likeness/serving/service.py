"""The query service of one root: a search engine that follows the builds in service."""

from collections.abc import Callable

from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.serving.build_watcher import BuildWatcher
from likeness.serving.loaded_build import LoadedBuild
from likeness.serving.query_terms import Term
from likeness.serving.search_engine import SearchEngine
from likeness.serving.search_params import SearchParams


class Service(SearchEngine):
    """Answers queries about the builds in service, and about any other build by its name."""

    image_route = "/v1/images/"

    def __init__(self, settings: Settings, report: Callable[[str], None] = lambda message: None) -> None:
        hidden = HiddenProducts(settings.root)
        self.builds = BuildWatcher(settings, hidden, report)
        super().__init__(settings, self.builds, hidden, report)

    def start(self) -> None:
        """Loads the builds in service, and follows what is published from then on."""
        self.builds.start()

    def stop(self) -> None:
        """Stops following, and closes what is open."""
        self.builds.stop()
        self.close()

    def _loaded_for(self, term: Term, params: SearchParams) -> LoadedBuild:
        """As of `SearchEngine`, for at most `serve.k_max` results."""
        last, most = params.offset + params.k, self.settings.serve.k_max
        if last > most:
            raise UsageError(f"results up to {last} are asked for; serve.k_max is {most}")
        return super()._loaded_for(term, params)
