"""The build that answers: the one in service, and the next one beside it, until that takes over with one assignment."""

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import LikenessError, ServiceError, UsageError
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.models.category_classifier import load_category_classifier
from likeness.models.model_registry import ModelRegistry
from likeness.serving.encoder import Encoder
from likeness.serving.fan_out import FanOut
from likeness.serving.leaf import Leaf, LeafPort
from likeness.serving.leaf_client import RemoteLeaf
from likeness.serving.leaf_server import read_token
from likeness.serving.micro_batching import BatchedLeaf
from likeness.serving.root import Root, SearchParams

_LOOK_S, _AGAIN_S = 1.0, 30.0
_THREADS = 128
"""Questions to leaves at once; a thread waits for each."""


@dataclass(frozen=True)
class LoadedBuild:
    """One build, as it answers."""

    manifest: Manifest
    leaf: LeafPort
    root: Root
    encoder: Encoder

    @property
    def share(self) -> float:
        """The share of its shards that can be asked."""
        return self.leaf.share if isinstance(self.leaf, FanOut) else 1.0


class NotReadyError(ServiceError):
    """Nothing can be answered yet; the message says why."""


class UnknownError(UsageError):
    """What was asked for by name is not there."""


class BuildWatcher:
    """Follows what CURRENT names, and loads any other build that is asked for by its name."""

    def __init__(self, settings: Settings, hidden: HiddenProducts, say: Callable[[str], None]) -> None:
        self._settings, self._hidden, self._say = settings, hidden, say
        self._builds = Builds(settings.root, settings.extract.cache)
        self._current: LoadedBuild | None = None
        self._candidate: LoadedBuild | None = None
        self._problem = "the service has not started"
        self._version = ""  # of the category model that was looked at last
        self._failed = ("", 0.0)  # the build that could not be loaded last, and when
        given = settings.serve
        token = read_token(given.leaf_token)
        self._leaves = [RemoteLeaf(address, token) for address in given.leaves]
        self._pool = ThreadPoolExecutor(_THREADS, "leaves")
        self._loading, self._stopped = threading.Lock(), threading.Event()
        self._watch = threading.Thread(target=self._follow, daemon=True, name="follow CURRENT")

    def start(self) -> None:
        """Loads the build in service, and goes along from then on."""
        self._look()
        self._watch.start()

    def stop(self) -> None:
        """Ends what `start` began."""
        self._stopped.set()
        if self._watch.is_alive():
            self._watch.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def problem(self) -> str:
        """Why nothing is answered; empty if all is well."""
        return "" if self._current else self._problem

    def loaded(self, build: str = "") -> LoadedBuild:
        """The build in service, or one by its name; the last one that was asked for by name stays loaded.

        Raises:
            NotReadyError: none is in service.
            UnknownError: there is no such build.
        """
        current = self._current
        if current is None:
            raise NotReadyError(self._problem)
        if build in ("", current.manifest.build, current.manifest.path):
            return current
        with self._loading:
            candidate = self._candidate
            if candidate is None or build not in (candidate.manifest.build, candidate.manifest.path):
                try:
                    manifest = self._builds.find(build)
                except UsageError as error:
                    raise UnknownError(str(error)) from None
                self._candidate = candidate = self._load(manifest)
            return candidate

    def _opened(self, manifest: Manifest) -> LeafPort:
        """The shards of a build, warm: in this process, or in the leaves that the settings name."""
        if self._leaves:
            fan = FanOut(manifest, self._leaves, self._pool, self._settings.serve, self._say)
            fan.prepare()
            return fan
        leaf = Leaf(self._builds, manifest)
        leaf.warm()
        return BatchedLeaf(leaf)

    def _follow(self) -> None:
        while not self._stopped.wait(_LOOK_S):
            self._look()
            for loaded in (self._current, self._candidate):
                if loaded and isinstance(loaded.leaf, FanOut):
                    loaded.leaf.tend()
            current = self._current
            if current and ((current.share == 1 and not current.root.whole) or self._outdated(current)):
                self._current = dataclasses.replace(current, root=self._root(current.manifest, current.leaf))

    def _look(self) -> None:
        """Loads what CURRENT names, if it is not what is loaded; what is loaded stays until that is done."""
        begun, path = time.monotonic(), ""
        try:
            chain = self._builds.chain()
            if not chain:
                raise UsageError(f"{self._builds.folder}: nothing is published yet; run ./spark-submit.sh nightly")
            path = chain[0]
            same = self._current is not None and self._current.manifest.path == path
            if same or (self._failed[0] == path and begun - self._failed[1] < _AGAIN_S):
                return
            loaded, current = self._load(self._builds.read(path)), self._current
            if current and loaded.share < current.share:
                raise ServiceError(
                    f"leaves are ready for {loaded.share:.0%} of {path}, and for {current.share:.0%} of what is served"
                )
            self._current, self._problem = loaded, ""
            self._say(f"serving {path}, loaded in {time.monotonic() - begun:.1f} s")
        except Exception as error:  # whatever it is, what is loaded goes on, and the next build is looked for
            self._failed = (path, begun)
            told = str(error) if isinstance(error, (LikenessError, OSError)) else repr(error)
            if told != self._problem:
                self._problem = told
                self._say(f"cannot serve what is published: {error}")

    def _load(self, manifest: Manifest) -> LoadedBuild:
        """A build, warmed up: its first query is as fast as all others."""
        leaf, current = self._opened(manifest), self._current
        same = current is not None and current.manifest.space == manifest.space
        encoder = current.encoder if current and same else Encoder(self._settings, manifest.space)
        root = self._root(manifest, leaf)
        root.search(encoder.warm_up(), manifest.space, SearchParams(category="all"))
        return LoadedBuild(manifest, leaf, root, encoder)

    def _root(self, manifest: Manifest, leaf: LeafPort) -> Root:
        try:
            told = load_category_classifier(self._settings, manifest.space)
        except LikenessError as error:  # neighbours vote in its place
            self._say(f"categories: {error}")
            told = None
        return Root(manifest, leaf, self._hidden, told)

    def _outdated(self, loaded: LoadedBuild) -> bool:
        """Whether another version of the category model was put in service; one that is damaged was said to be so."""
        name, told = self._settings.serve.category_model, loaded.root.recogniser
        try:
            promoted = ModelRegistry(self._settings.root).promotions(name) if name else []
        except (LikenessError, OSError):
            return False
        version = promoted[0].version if promoted else ""
        if version == self._version:
            return False
        self._version = version
        return (told.card.version if told else "") != version
