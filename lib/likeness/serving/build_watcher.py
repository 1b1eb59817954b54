"""Build watcher: follows the build in service of each space, and swaps a new one in once it is ready to answer."""

import dataclasses
import math
import threading
import time
from collections.abc import Callable

from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import LikenessError, ServiceError, UsageError
from likeness.core.settings import Settings
from likeness.index.manifest import Manifest
from likeness.models.model_registry import ModelRegistry
from likeness.serving.fan_out import FanOut
from likeness.serving.leaf import Leaf, LeafPort
from likeness.serving.leaf_client import RemoteLeaf
from likeness.serving.leaf_server import read_token
from likeness.serving.loaded_build import BuildSource, LoadedBuild, NotReadyError, UnknownError, UnknownSpaceError
from likeness.serving.search_params import SearchParams

_POLL_S, _RETRY_S = 1.0, 30.0


@dataclasses.dataclass
class _Slot:
    """One space in service: the build that answers, or the problem why none does.

    `space` is empty for the default space. `failed` is the build that could not be loaded last, and when;
    `classifier_version` that of the category model which was checked last; `read_at` when its CURRENT was read last.
    """

    space: str
    current: LoadedBuild | None = None
    problem: str = "the service has not started"
    failed: tuple[str, float] = ("", 0.0)
    classifier_version: str = ""
    read_at: float = -math.inf

    def serves(self, space: str) -> bool:
        """Whether a space, with or without its hash, is this one's."""
        return _is_space(space, self.current.manifest.space if self.current else self.space)


class BuildWatcher(BuildSource):
    """Follows the published builds of the spaces in service; loads any other build by its name."""

    def __init__(self, settings: Settings, hidden: HiddenProducts, report: Callable[[str], None]) -> None:
        super().__init__(settings, hidden, report)
        self._slots = [_Slot(space) for space in settings.spaces or ("",)]
        self._candidate: LoadedBuild | None = None
        token = read_token(settings.serve.leaf_token)
        self._leaves = [RemoteLeaf(address, token) for address in settings.serve.leaves]
        self._loading, self._stopped = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="follow CURRENT")

    def start(self) -> None:
        """Loads the builds in service, and follows what is published from then on."""
        for slot in self._slots:
            self._update(slot)
        self._thread.start()

    def stop(self) -> None:
        """Stops following."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        for leaf in self._leaves:
            leaf.close()

    @property
    def problem(self) -> str:
        """Why the default space is not answered; empty if it is."""
        return "" if self._slots[0].current else self._slots[0].problem

    @property
    def age_s(self) -> float:
        """Seconds since it was read which builds are published, that of the space read longest ago."""
        return time.monotonic() - min(slot.read_at for slot in self._slots)

    def in_service(self) -> list[LoadedBuild]:
        """The builds that answer, that of the default space first."""
        return [slot.current for slot in self._slots if slot.current]

    def loaded(self, space: str = "", build: str = "") -> LoadedBuild:
        """The build in service of a space (the default space if empty), or a build by its name.

        The build that was named last stays loaded.

        Raises:
            NotReadyError: no build of the space is loaded.
            UnknownSpaceError: the space is not in service.
            UnknownError: there is no such build.
        """
        if build:
            return self._by_name(space, build)
        slot = next((slot for slot in self._slots if slot.serves(space)), None) if space else self._slots[0]
        if slot is None:
            names = ", ".join(loaded.manifest.space for loaded in self.in_service())
            raise UnknownSpaceError(f"space {space!r} is not in service; in service: {names or 'none yet'}")
        current = slot.current
        if current is None:
            raise NotReadyError(slot.problem)
        return current

    def serves(self, space: str, build: str) -> bool:
        """Whether a build, by its name, is in service."""
        return any(_is_named(loaded.manifest, space, build) for loaded in self.in_service())

    def _by_name(self, space: str, build: str) -> LoadedBuild:
        if self.problem:
            raise NotReadyError(self.problem)
        for loaded in self.in_service():
            if _is_named(loaded.manifest, space, build):
                return loaded
        with self._loading:
            if self._candidate is None or not _is_named(self._candidate.manifest, space, build):
                try:
                    manifest = self._builds.find(build, space)
                except UsageError:
                    names = ", ".join(self._builds.all())
                    raise UnknownError(f"build {build!r} does not exist; there are: {names}") from None
                self._candidate = self._load(manifest)
            return self._candidate

    def _open_leaf(self, manifest: Manifest) -> LeafPort:
        """The shards of a build, warm: in this process, or in the leaves that the settings name."""
        if self._leaves:
            fan_out = FanOut(manifest, self._leaves, self._settings.serve, self._report)
            fan_out.prepare()
            return fan_out
        leaf = Leaf(self._builds, manifest)
        leaf.warm()
        return leaf

    def _follow(self) -> None:
        while not self._stopped.wait(_POLL_S):
            try:
                for slot in self._slots:
                    self._update(slot)
                for loaded in (*self.in_service(), self._candidate):
                    if loaded and isinstance(loaded.leaf, FanOut):
                        loaded.leaf.refresh()
                for slot in self._slots:
                    self._renew_root(slot)
            except Exception as error:  # of any kind, as of a machine without memory or descriptors: look again
                self._report(f"published builds: {error!r}; looking again")

    def _update(self, slot: _Slot) -> None:
        """Loads the build that is published, if another one answers; that one answers until the new one is ready."""
        start, path = time.monotonic(), ""
        try:
            chain = self._builds.chain(slot.space)
            path = chain[0] if chain else self._builds.find(space=slot.space).path  # which says that there is none
            slot.read_at, current = time.monotonic(), slot.current
            unchanged = current is not None and current.manifest.path == path
            if unchanged or (slot.failed[0] == path and start - slot.failed[1] < _RETRY_S):
                return
            loaded = self._load(self._builds.read(path))
            if current and _ready_share(loaded) < _ready_share(current):
                raise ServiceError(
                    f"leaves are ready for {_ready_share(loaded):.0%} of {path}, and for {_ready_share(current):.0%} "
                    "of what is served"
                )
            slot.current, slot.problem = loaded, ""
            self._report(f"serving {path}, loaded in {time.monotonic() - start:.1f} s")
        except Exception as error:  # of any kind: the build that answers goes on, and the next one is looked for
            slot.failed = (path, start)
            message = str(error) if isinstance(error, OSError) else repr(error)
            message = error.message if isinstance(error, LikenessError) else message
            if message != slot.problem:
                slot.problem = message
                self._report(f"cannot serve what is published: {error}")

    def _load(self, manifest: Manifest) -> LoadedBuild:
        """Loads a build, and runs a first query, so that later ones are fast."""
        loaded = super()._load(manifest)
        loaded.root.search(loaded.encoder.warm_up(), manifest.space, SearchParams(category="all"))
        return loaded

    def _renew_root(self, slot: _Slot) -> None:
        """Makes the root anew once leaves came back that its sample lacks, or the category model changed."""
        current = slot.current
        if current is None:
            return
        sample_grows = _ready_share(current) == 1 and not current.root.whole
        if sample_grows or self._classifier_changed(slot, current):
            slot.current = dataclasses.replace(current, root=self._root(current.manifest, current.leaf))

    def _classifier_changed(self, slot: _Slot, current: LoadedBuild) -> bool:
        """Whether another version of the category model was put in service since it was checked last."""
        name, classifier = self._settings.serve.category_model, current.root.classifier
        try:
            promoted = ModelRegistry(self._settings.root).promotions(name) if name else []
        except (LikenessError, OSError):
            return False
        version = promoted[0].version if promoted else ""
        if version == slot.classifier_version:
            return False
        slot.classifier_version = version
        return (classifier.card.version if classifier else "") != version


def _is_space(name: str, space: str) -> bool:
    return name in (space, space.partition("@")[0])


def _is_named(manifest: Manifest, space: str, build: str) -> bool:
    return build in (manifest.build, manifest.path) and (not space or _is_space(space, manifest.space))


def _ready_share(loaded: LoadedBuild) -> float:
    """The share of a build's shards that can answer."""
    return loaded.leaf.share if isinstance(loaded.leaf, FanOut) else 1.0
