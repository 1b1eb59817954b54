"""Loaded builds: a manifest in; its shards, its root and the network of its space, ready to answer, out."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import LikenessError, ServiceError, UsageError
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.models.category_classifier import load_category_classifier
from likeness.serving.encoder import Encoder
from likeness.serving.leaf import Leaf, LeafPort
from likeness.serving.root import Root


class NotReadyError(ServiceError):
    """No build is loaded yet; the message says why."""


class UnknownError(UsageError):
    """A build, product, image or space of that name does not exist here."""


class UnknownSpaceError(UnknownError):
    """The feature space has no build in service."""


@dataclass(frozen=True)
class LoadedBuild:
    """One build, ready to answer."""

    manifest: Manifest
    leaf: LeafPort
    root: Root
    encoder: Encoder


class BuildSource(ABC):
    """Loads builds of one root, and holds those that answer."""

    def __init__(self, settings: Settings, hidden: HiddenProducts, report: Callable[[str], None]) -> None:
        self._settings, self._hidden, self._report = settings, hidden, report
        self._builds = Builds.open(settings)

    @abstractmethod
    def loaded(self, space: str = "", build: str = "") -> LoadedBuild:
        """A build by its name, or the one in service of a space; of the default space if both are empty."""

    @abstractmethod
    def in_service(self) -> Sequence[LoadedBuild]:
        """The builds that answer, that of the default space first."""

    def _open_leaf(self, manifest: Manifest) -> LeafPort:
        """The shards of a build."""
        return Leaf(self._builds, manifest)

    def _load(self, manifest: Manifest) -> LoadedBuild:
        """Loads a build; the network of a space in service is not loaded again."""
        leaf = self._open_leaf(manifest)
        encoders = (one.encoder for one in self.in_service() if one.manifest.space == manifest.space)
        encoder = next(encoders, None) or Encoder(self._settings, manifest.space)
        return LoadedBuild(manifest, leaf, self._root(manifest, leaf), encoder)

    def _root(self, manifest: Manifest, leaf: LeafPort) -> Root:
        """A root over a leaf, with the category model in service; neighbours vote if that cannot be loaded."""
        try:
            classifier = load_category_classifier(self._settings, manifest.space)
        except LikenessError as error:
            self._report(f"categories: {error}")
            classifier = None
        return Root(manifest, leaf, self._hidden, classifier)


class LocalBuilds(BuildSource):
    """Builds of one root, loaded into this process on first use and kept: later publications are not followed."""

    def __init__(self, settings: Settings, hidden: HiddenProducts, report: Callable[[str], None]) -> None:
        super().__init__(settings, hidden, report)
        self._manifests: dict[tuple[str, str], Manifest] = {}
        self._loaded: dict[str, LoadedBuild] = {}
        self._lock = threading.Lock()

    def manifest(self, space: str = "", build: str = "") -> Manifest:
        """The manifest of a build by its name, or of the one in service of a space.

        Raises:
            UsageError: nothing is published, or there is no such build or space.
        """
        if (space, build) not in self._manifests:
            if space and not build and not self._builds.chain(space):
                names = ", ".join(self._builds.spaces())
                raise UnknownSpaceError(f"space {space!r} is not in service; in service: {names or 'none yet'}")
            self._manifests[space, build] = self._builds.find(build, space)
        return self._manifests[space, build]

    def loaded(self, space: str = "", build: str = "") -> LoadedBuild:
        """A build by its name, or the one in service of a space.

        Raises:
            UsageError: nothing is published, or there is no such build or space.
        """
        with self._lock:
            manifest = self.manifest(space, build)
            if manifest.path not in self._loaded:
                self._loaded[manifest.path] = self._load(manifest)
            return self._loaded[manifest.path]

    def in_service(self) -> list[LoadedBuild]:
        """The builds that are loaded."""
        return list(self._loaded.values())
