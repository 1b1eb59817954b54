"""Builds: immutable folders of shards with a manifest, by space; published, verified, rolled back and deleted."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress

from likeness.core import uris
from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Settings
from likeness.index.build_files import MANIFEST, BuildFiles
from likeness.index.manifest import Manifest
from likeness.index.published import Pin, Published
from likeness.storage.leases import change_lease


class Builds(BuildFiles):
    """The builds of one root, with those in service.

    Where a space is not named, the default space is meant: the first of `spaces`, or the one published last. A space
    may be named with or without its hash.
    """

    def __init__(self, root: str, cache: str = "~/.cache/likeness", spaces: Sequence[str] = ()) -> None:
        """Opens the builds of a root.

        Args:
            root: folder or URI of the root.
            cache: local folder for copies of builds on HDFS.
            spaces: the spaces in service, the default first.
        """
        super().__init__(root, cache)
        self._root = root
        self.published = Published(self.folder, spaces)

    @classmethod
    def open(cls, settings: Settings) -> "Builds":
        """Opens the builds of the root in the settings, with the spaces that they put in service."""
        return cls(settings.root, settings.extract.cache, settings.spaces)

    def spaces(self) -> list[str]:
        """The spaces in service, the default first."""
        return self.published.spaces()

    def chain(self, space: str = "") -> list[str]:
        """Published builds of a space as `space/build`, the one in service first; empty before the first publish."""
        name = self.published.resolve(space)
        chain = self.published.chain(name)
        return [f"{name}/{build}" for build in chain.builds] if chain else []

    def current(self, space: str = "") -> Manifest | None:
        """The manifest of the build in service; None before the first publish."""
        chain = self.chain(space)
        return self.read(chain[0]) if chain else None

    def find(self, name: str = "", space: str = "") -> Manifest:
        """Finds a build by its name or `space/build`; the one in service if the name is empty.

        Raises:
            UsageError: nothing is published, or there is no such build.
        """
        if not name:
            if current := self.current(space):
                return current
            of_space = f" of space {space}" if space else ""
            remedy = f"run ./spark-submit.sh nightly first, which publishes in {self.folder}"
            raise UsageError(f"nothing{of_space} is published yet", remedy)
        paths = self.of(self.published.resolve(space)) if space else list(self.all())
        for path in paths:
            if name in (path, path.partition("/")[2]):
                return self.read(path)
        raise UsageError(f"build {name!r} is not in this root", f"there are: {', '.join(paths) or 'none'}")

    def pins(self, space: str = "") -> list[Pin]:
        """The pinned builds that a publication of the space would take out of service.

        They are its own build in service, and that of the default space where no setting says which spaces are served.
        """
        return self.published.pins(self.published.resolve(space))

    def publish(self, manifest: Manifest, keep: int, unpin: bool = True) -> None:
        """Puts a build in service for its space, and deletes builds of the space older than the last `keep`.

        With `unpin`, the `pins` of the space are removed. The caller holds the lease `publish`, or is exclusive.
        """
        chain = [manifest.path, *(path for path in self.chain(manifest.space) if path != manifest.path)][:keep]
        if unpin:
            self._unpin(manifest.space)
        self.published.write(manifest.space, chain)
        self.sweep(manifest.space, before=manifest.build)

    def rollback(self, to: str = "", space: str = "") -> tuple[str | None, str]:
        """Puts the previous build of a space, or a named one, back in service, and pins it.

        A named build makes its space the default one. Without any name, a default space that has no earlier build
        goes out of service, and the space published before it is the default again.

        Returns:
            The builds (`space/build`) in service before, None if that cannot be read, and afterwards.

        Raises:
            UsageError: there is no build to go back to.
            ServiceError: another command or run changes what is in service.
        """
        with self._lease("rollback"):
            return self._roll_back_to(self.find(to, space), space) if to else self._roll_back(space)

    def release(self, space: str = "") -> list[Pin]:
        """Removes the `pins` of a space, so that the next run publishes again; returns them.

        Raises:
            UsageError: there are no builds.
            ServiceError: another command or run changes what is in service.
        """
        with self._lease("rollback --release"):
            return self._unpin(self.published.resolve(space))

    def _lease(self, job: str) -> AbstractContextManager[None]:
        if not self._names():  # the lease would create the root
            raise UsageError(
                f"{self.folder}: no earlier build, nothing is published", "run ./spark-submit.sh nightly first"
            )
        return change_lease(self._root, "publish", job)

    def _unpin(self, space: str) -> list[Pin]:
        pins = self.published.pins(space)
        for pin in pins:
            self._mark(self.chain(pin.path.partition("/")[0]), pin=False)
        return pins

    def _roll_back(self, space: str) -> tuple[str | None, str]:
        chain = self.chain(space)
        if len(chain) > 1:
            self.read(chain[1])
            self._mark(chain[1:], pin=True)
            return chain[0], chain[1]
        others = [] if space or self.published.configured else list(self.published.chains())[1:]
        if not others:
            of_space = f" of space {space}" if space else ""
            remedy = "`--to BUILD` names any build"
            raise UsageError(f"{self.folder}: no earlier build{of_space} to roll back to", remedy)
        target = self.read(self.chain(others[0])[0])
        self._mark(self.chain(others[0]), pin=True)
        self.published.write(chain[0].partition("/")[0], [])
        return chain[0], target.path

    def _mark(self, chain: Sequence[str], pin: bool) -> None:
        """Pins or unpins the first build of a chain, whose space keeps its place among the spaces."""
        space = chain[0].partition("/")[0]
        before = self.published.chain(space)
        self.published.write(space, chain, before.published if before else "", pin)

    def _roll_back_to(self, target: Manifest, space: str) -> tuple[str | None, str]:
        before, chain = list[str](), list[str]()
        with suppress(DataError):
            chain = self.chain(target.space)
        with suppress(DataError):
            before = self.chain(space)
        later = chain.index(target.path) + 1 if target.path in chain else 0
        self.published.write(target.space, [target.path, *chain[later:]], pin=True)
        return (before[0] if before else None), target.path

    def sweep_all(self, exclusive: str) -> tuple[int, int]:
        """Sweeps every space but for its newest build.

        Args:
            exclusive: the space that no other run works on: its unfinished builds are deleted at any age.

        Returns:
            The numbers of builds and files deleted.
        """
        newest = dict(path.split("/") for path in self.all())  # the last of a space stays
        deleted = [self.sweep(space, build, unfinished=space == exclusive) for space, build in newest.items()]
        return sum(builds for builds, _ in deleted), sum(files for _, files in deleted)

    def sweep(self, space: str, before: str, unfinished: bool = False) -> tuple[int, int]:
        """Deletes the builds older than one, but for published ones and shards that a remaining build uses.

        Args:
            space: the feature space.
            before: the build.
            unfinished: also delete younger builds without a manifest; no run may be working on one.

        Returns:
            The numbers of builds and files deleted.
        """
        folder, chain = uris.join(self.folder, space), self.chain(space)
        complete = set(self.of(space))
        names = [name for name in self._names(space) if f"{space}/{name}" not in chain]
        old = [name for name in names if name < before or (unfinished and f"{space}/{name}" not in complete)]
        builds = files = 0
        for build in old:  # first: a build without its manifest is none
            manifest = uris.join(folder, build, MANIFEST)
            builds += self._files.exists(manifest)
            self._files.delete(manifest)
        needed: set[str] = set()
        for path in self.of(space):
            with suppress(DataError):  # of a damaged build, only its own folder can be kept
                needed |= {file.name for file in self.read(path).files}
        for build in old:
            left = [f"{build}/{name}" for name in self._files.names(uris.join(folder, build))]
            unused = [name for name in left if name not in needed]
            files += len(unused)
            for name in unused if len(unused) < len(left) else [build]:
                self._files.delete(uris.join(folder, name))
        return builds, files

    def keep_only(self, manifests: Sequence[Manifest]) -> int:
        """Deletes all other builds of all spaces, and all local copies; returns how many builds were deleted.

        Args:
            manifests: the builds to keep and to have in service, at most one a space, that of the default space first.
        """
        kept = {manifest.space: manifest.path for manifest in manifests}
        for space, path in reversed(kept.items()):
            self.published.write(space, [path])
        deleted = {f"{space}/{name}" for space in self._names() for name in self._names(space)} - set(kept.values())
        for space in set(self._names()) - kept.keys():
            self.published.write(space, [])
        for path in deleted:
            self._files.delete(uris.join(self.folder, path))
        self._cache.clear()
        return len(deleted)
