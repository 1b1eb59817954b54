"""The query service of one root: a search engine that follows the builds in service."""

from collections.abc import Callable

from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.serving.build_watcher import BuildWatcher
from likeness.serving.hidden_watcher import HiddenProductsWatcher
from likeness.serving.loaded_build import LoadedBuild, NotReadyError
from likeness.serving.query_terms import Term
from likeness.serving.search_engine import SearchEngine
from likeness.serving.search_params import SearchParams


class Service(SearchEngine):
    """Answers queries about the builds in service, and about any other build by its name."""

    image_route = "/v1/images/"

    def __init__(self, settings: Settings, report: Callable[[str], None] = lambda message: None) -> None:
        self.hidden = HiddenProductsWatcher(settings.root, report)
        # photos of queries have limits of their own
        encoding = settings.model_copy(update={"limits": settings.serve.photo_limits})
        self.builds = BuildWatcher(encoding, self.hidden, report)
        super().__init__(settings, self.builds, self.hidden, report)

    def start(self) -> None:
        """Loads the builds in service, and follows what is published from then on."""
        self.hidden.start()
        self.builds.start()

    @property
    def problem(self) -> str:
        """Why queries are not answered; empty if they are."""
        return self.builds.problem or self.hidden.unread

    def stop(self) -> None:
        """Stops following, and closes what is open."""
        self.builds.stop()
        self.hidden.stop()
        self.close()

    def _loaded_for(self, term: Term, params: SearchParams) -> LoadedBuild:
        """As of `SearchEngine`, for at most `serve.k_max` results; refused until it is known what is hidden."""
        if self.hidden.unread:
            raise NotReadyError(self.hidden.unread)
        last, most = params.offset + params.k, self.settings.serve.k_max
        if last > most:
            raise UsageError(f"results up to {last} are asked for; serve.k_max is {most}")
        return super()._loaded_for(term, params)
