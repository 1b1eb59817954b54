"""Models: immutable versions of networks that were trained here, with cards; one of each name is in service.

    ROOT/models/NAME/VERSION/model.safetensors, card.json, evaluations/SET@VERSION.json
    ROOT/models/NAME/CURRENT

CURRENT is replaced by one rename. It keeps who was promoted when, and why if a gate was overruled.
"""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from likeness import storage
from likeness.core import uris
from likeness.core.errors import DataError, GateError, SpaceMismatch, UsageError
from likeness.core.settings import Settings
from likeness.models.backbones import Space, registry, resolve
from likeness.models.model_card import Evaluation, Measured, ModelCard, Promotion, Promotions, worse

CARD, CURRENT, WEIGHTS, EVALUATIONS = "card.json", "CURRENT", "model.safetensors", "evaluations"


class ModelRegistry:
    """The models of one root; weights that are not local are copied to `cache`."""

    def __init__(self, root: str, cache: str = "~/.cache/likeness") -> None:
        self._cache = cache
        self.folder = uris.join(uris.canonical(root), "models")
        self._files = storage.files(self.folder)

    def names(self) -> list[str]:
        """All models."""
        return [name for name in self._files.names(self.folder) if self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """The whole versions of a model, by age."""
        folder = uris.join(self.folder, name)
        return [one for one in self._files.names(folder) if self._files.exists(uris.join(folder, one, CARD))]

    def promotions(self, name: str) -> list[Promotion]:
        """Which versions were put in service, the one that is in service first.

        Raises:
            DataError: CURRENT is damaged.
        """
        uri = uris.join(self.folder, name, CURRENT)
        try:
            return list(Promotions.model_validate_json(self._files.read(uri)).promotions)
        except FileNotFoundError:
            return []
        except ValueError:
            raise DataError(
                f"{uri} is damaged; write it anew with `likeness models promote {name} --version V`"
            ) from None

    def card(self, name: str, version: str = "") -> ModelCard:
        """One version's card: a named one, or that in service, or the newest if none is.

        Raises:
            UsageError: there is no such model or version.
            DataError: the card is damaged.
        """
        versions = self.versions(name)
        if not versions or (version and version not in versions):
            known = ", ".join(versions or self.names()) or "none"
            raise UsageError(f"model {f'{name} {version}'.strip()!r} is not in {self.folder}; there are: {known}")
        if not version:
            promoted = self.promotions(name)
            version = promoted[0].version if promoted else versions[-1]
        uri = uris.join(self.folder, name, version, CARD)
        try:
            return ModelCard.model_validate_json(self._files.read(uri))
        except ValueError as error:
            raise DataError(f"{uri} is damaged ({error}); train the model again, or promote another version") from None

    def candidate(self, name: str, version: str = "") -> ModelCard:
        """The card of a version that may be put in service: a named one, or the newest.

        Raises:
            UsageError: there is none.
            DataError: the card is damaged.
        """
        return self.card(name, version or next(reversed(self.versions(name)), ""))

    def in_service(self, name: str) -> ModelCard | None:
        """The card of the version in service; None if there is none."""
        promoted = self.promotions(name)
        return self.card(name, promoted[0].version) if promoted else None

    def weights(self, card: ModelCard) -> str:
        """The URI of a version's weights."""
        return uris.join(self.folder, card.name, card.version, WEIGHTS)

    def more(self, card: ModelCard, name: str) -> bytes:
        """Another file of a version.

        Raises:
            FileNotFoundError: it has none of that name.
        """
        return self._files.read(uris.join(self.folder, card.name, card.version, name))

    def write(self, card: ModelCard, weights: Path, more: Mapping[str, bytes]) -> None:
        """Makes a version; its card is its last file.

        Raises:
            DataError: it is there already.
        """
        folder = uris.join(self.folder, card.name, card.version)
        if self._files.exists(folder):
            raise DataError(f"{folder} is there already, and versions never change; train again")
        self._files.upload(str(weights), uris.join(folder, WEIGHTS))
        for name, data in more.items():
            self._files.write(uris.join(folder, name), data)
        self._files.write(uris.join(folder, CARD), card.model_dump_json(indent=2).encode() + b"\n")

    def measured(self, card: ModelCard) -> Measured:
        """What a version is worth on each evaluation set that it was measured on, that of its card first.

        Raises:
            DataError: one is damaged.
        """
        folder, found = uris.join(self.folder, card.name, card.version, EVALUATIONS), {card.evaluation: card.metrics}
        for name in self._files.names(folder):
            uri = uris.join(folder, name)
            try:
                one = Evaluation.model_validate_json(self._files.read(uri))
            except ValueError as error:
                raise DataError(f"{uri} is damaged ({error}); delete it, and evaluate again") from None
            found[one.evaluation] = one.metrics
        return found

    def add(self, card: ModelCard, one: Evaluation) -> None:
        """Keeps what a version is worth on another evaluation set than that of its card."""
        uri = uris.join(self.folder, card.name, card.version, EVALUATIONS, f"{one.evaluation}.json")
        self._files.write(uri, one.model_dump_json(indent=2).encode() + b"\n")

    def promote(self, name: str, version: str = "", reason: str = "") -> tuple[ModelCard | None, ModelCard]:
        """Puts a version in service, the newest by default; what was, and what is.

        Args:
            name: the model.
            version: of it.
            reason: why it is promoted although a gate says no; empty where the gate decides.

        Raises:
            GateError: it is worse than the one in service, or the two were not measured on the same evaluation set.
            DataError: its weights are not those of its card.
        """
        card = self.candidate(name, version)
        self.space(card)
        try:
            before = self.in_service(name)
        except DataError:
            if not reason:
                raise
            before = None
        refused = worse(before, self.measured(before), card, self.measured(card)) if before else ""
        if refused and not reason:
            raise GateError(
                f"model {name} {card.version} is not promoted: {refused}; --force --reason WHY overrules this"
            )
        promotions = self.promotions(name) if before else []
        self._point(name, [_now(card.version, reason if refused else ""), *promotions])
        return before, card

    def rollback(self, name: str) -> tuple[str, str]:
        """Puts the version in service that was before; what was, and what is.

        Raises:
            UsageError: there was none.
        """
        promotions = self.promotions(name)
        if len(promotions) < 2:
            raise UsageError(f"model {name!r} in {self.folder}: no earlier version was in service; promote one")
        self.space(self.card(name, promotions[1].version))
        self._point(name, promotions[1:])
        return promotions[0].version, promotions[1].version

    def space(self, card: ModelCard, layer: str = "") -> Space:
        """The feature space of a version: what its top gives, or another of its layers.

        Raises:
            DataError: its weights are missing, or not those of its card.
        """
        if not self._files.exists(self.weights(card)):
            raise DataError(f"{self.weights(card)} is missing; train the model again, or promote another version")
        found = resolve(f"{card.name}.{layer or card.layer}", self.weights(card), self._cache)
        if found.weights_sha256 != card.weights.sha256:
            raise DataError(
                f"{self.weights(card)} has checksum {found.weights_sha256[:12]}, its card says "
                f"{card.weights.sha256[:12]}: it was changed; train the model again, or promote another version"
            )
        return found

    def spaces(self, name: str) -> Iterator[Space]:
        """The spaces that a name such as `clothes.embedding` has in the versions, that in service first."""
        word, _, layer = name.partition("@")[0].partition(".")
        model, *variants = word.split("-")
        current = self.in_service(model)
        versions = [one for one in reversed(self.versions(model)) if not current or one != current.version]
        for card in [*([current] if current else []), *(self.card(model, one) for one in versions)]:
            found = self.space(card, layer)
            yield (
                resolve(f"{'-'.join([model, *variants])}.{layer}", found.weights_path, self._cache)
                if variants
                else found
            )

    def _point(self, name: str, promotions: Sequence[Promotion]) -> None:
        content = Promotions(promotions=promotions).model_dump_json(indent=2)
        self._files.write(uris.join(self.folder, name, CURRENT), content.encode() + b"\n")


def overruling(force: bool, reason: str) -> str:
    """Why a gate is to be overruled; empty if it is not.

    Raises:
        UsageError: it is to be, and nobody says why, or the other way round.
    """
    if force != bool(reason):
        raise UsageError("--force wants --reason WHY, and --reason wants --force: what overrules a gate is kept")
    return reason


def space_of(settings: Settings, name: str = "") -> Space:
    """The space that a name stands for, `extract.space` by default: of the registry, of a file, or a model of the root.

    A pinned name is looked for in all versions of a model.

    Raises:
        UsageError: there is none.
        SpaceMismatch: the name is pinned, and nothing at hand gives that space.
    """
    extract, name = settings.extract, name or settings.extract.space
    model = name.partition("@")[0].partition(".")[0].partition("-")[0]
    if extract.weights or model in registry():
        return resolve(name, extract.weights, extract.cache)
    models = ModelRegistry(settings.root, extract.cache)
    if model not in models.names():
        return resolve(name, "", extract.cache)
    found = ""
    for space in models.spaces(name):
        if "@" not in name or space.id == name:
            return space
        found = found or space.id
    raise SpaceMismatch(f"space {name!r}: no version of model {model} gives it (that in service gives {found})")


def spaces_of(settings: Settings) -> tuple[Space, ...]:
    """The space of `extract.space`, and after it those of `extract.also`, whose vectors come of the same pass.

    Raises:
        UsageError: there is none, or one of them is of another network.
    """
    first = space_of(settings)
    found = {first.id: first}
    for name in settings.extract.also:
        space = space_of(settings, name)
        if (space.backbone, space.weights_sha256) != (first.backbone, first.weights_sha256):
            raise UsageError(
                f"extract.also = {name!r}: one pass is of one network, and extract.space is of {first.backbone}; "
                f"extract {space.backbone} by a run of its own"
            )
        found[space.id] = space
    return tuple(found.values())


def _now(version: str, reason: str) -> Promotion:
    return Promotion(version=version, when=datetime.datetime.now(datetime.UTC), reason=reason)
