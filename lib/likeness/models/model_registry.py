"""The model registry: immutable versions of trained models with cards; one version of each model is in service.

    ROOT/models/NAME/VERSION/model.safetensors, card.json, report.json, evaluations/SET@VERSION.json
    ROOT/models/NAME/CURRENT

CURRENT is replaced by one rename. It has the history of promotions, and the reason where a gate was overruled.
"""

import datetime
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from likeness import storage
from likeness.core import uris
from likeness.core.errors import DataError, GateError, UsageError
from likeness.models import model_card
from likeness.models.backbones import Space, resolve
from likeness.models.model_card import Evaluation, MetricsByEvaluationSet, ModelCard, Promotion, Promotions
from likeness.models.training_report import TrainingReport
from likeness.storage.artifact import FrozenModel
from likeness.storage.leases import change_lease

CARD, CURRENT, EVALUATIONS = "card.json", "CURRENT", "evaluations"
REPORT, WEIGHTS = "report.json", "model.safetensors"
_Record = TypeVar("_Record", bound=FrozenModel)


class ModelRegistry:
    """The models of one root; remote weights are copied to `cache`."""

    def __init__(self, root: str, cache: str = "~/.cache/likeness") -> None:
        self._root, self._cache = root, cache
        self.folder = uris.join(uris.canonical(root), "models")
        self._files = storage.files(self.folder)

    def names(self) -> list[str]:
        """Names of all models."""
        return [name for name in self._files.names(self.folder) if self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """Complete versions of a model, oldest first."""
        folder = uris.join(self.folder, name)
        return [
            version for version in self._files.names(folder) if self._files.exists(uris.join(folder, version, CARD))
        ]

    def promotions(self, name: str) -> list[Promotion]:
        """The promotions of a model's versions, newest first; the first one is in service.

        Raises:
            DataError: CURRENT is damaged.
        """
        remedy = f"write it again with `likeness models promote {name} --version V`"
        try:
            return list(self._read(Promotions, uris.join(self.folder, name, CURRENT), remedy).promotions)
        except FileNotFoundError:
            return []

    def card(self, name: str, version: str = "") -> ModelCard:
        """Reads the card of a version; by default of the one in service, else of the newest.

        Raises:
            UsageError: there is no such model or version.
            DataError: the card is damaged.
        """
        versions = self.versions(name)
        if not versions or (version and version not in versions):
            existing = ", ".join(versions or self.names()) or "none"
            raise UsageError(f"model {f'{name} {version}'.strip()!r} is not in {self.folder}; there are: {existing}")
        if not version:
            promoted = self.promotions(name)
            version = promoted[0].version if promoted else versions[-1]
        uri = uris.join(self.folder, name, version, CARD)
        return self._read(ModelCard, uri, "train the model again, or promote another version")

    def candidate(self, name: str, version: str = "") -> ModelCard:
        """Reads the card of the version to put in service: a named one, or the newest.

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

    def report(self, card: ModelCard) -> TrainingReport:
        """Reads the training report of a version.

        Raises:
            FileNotFoundError: it has none.
        """
        data = self._files.read(uris.join(self.folder, card.name, card.version, REPORT))
        return TrainingReport.model_validate_json(data)

    def write(self, card: ModelCard, weights: Path, report: TrainingReport) -> None:
        """Writes a version: weights, report and, last, its card.

        Raises:
            DataError: it exists.
        """
        folder = uris.join(self.folder, card.name, card.version)
        if self._files.exists(folder):
            raise DataError(f"{folder} exists already, and versions never change; train again")
        self._files.upload(str(weights), uris.join(folder, WEIGHTS))
        self._files.write(uris.join(folder, REPORT), report.model_dump_json(exclude_none=True).encode())
        self._write(uris.join(folder, CARD), card)

    def metrics(self, card: ModelCard) -> MetricsByEvaluationSet:
        """The metrics of a version by evaluation set, that of its card first.

        Raises:
            DataError: one is damaged.
        """
        folder, metrics = uris.join(self.folder, card.name, card.version, EVALUATIONS), {card.evaluation: card.metrics}
        for name in self._files.names(folder):
            evaluation = self._read(Evaluation, uris.join(folder, name), "delete it, and evaluate again")
            metrics[evaluation.evaluation] = evaluation.metrics
        return metrics

    def add_evaluation(self, card: ModelCard, evaluation: Evaluation) -> None:
        """Saves the metrics of a version on a further evaluation set."""
        uri = uris.join(self.folder, card.name, card.version, EVALUATIONS, f"{evaluation.evaluation}.json")
        self._write(uri, evaluation)

    def promote(self, name: str, version: str = "", reason: str = "") -> tuple[ModelCard | None, ModelCard]:
        """Puts a version in service.

        Args:
            name: the model.
            version: default: the newest.
            reason: why the gate is overruled; empty if the gate decides.

        Returns:
            The cards of the version that was in service before, if any, and of the new one.

        Raises:
            GateError: it is worse than the one in service, or the two were not measured on a common evaluation set.
            DataError: its weights do not have the checksum in its card.
            ServiceError: another command or run changes which version is in service.
        """
        card = self.candidate(name, version)
        self.space(card)
        with self._lease("promote", card):
            return self._promote(card, reason), card

    def _promote(self, card: ModelCard, reason: str) -> ModelCard | None:
        """Puts a version in service unless a gate refuses; returns the card of the one before."""
        name = card.name
        try:
            before = self.in_service(name)
        except DataError:
            if not reason:
                raise
            before = None
        refusal = model_card.promotion_refusal(before, self.metrics(before), card, self.metrics(card)) if before else ""
        if refusal and not reason:
            raise GateError(
                f"model {name} {card.version} is not promoted: {refusal}; --force --reason WHY overrules this"
            )
        now, reason = datetime.datetime.now(datetime.UTC), reason if refusal else ""
        promotion = Promotion(version=card.version, when=now, reason=reason)
        self._write_current(name, [promotion, *(self.promotions(name) if before else ())])
        return before

    def rollback(self, name: str) -> tuple[str, str]:
        """Puts the previous version back in service; returns the version before and the one now.

        Raises:
            UsageError: there is none.
            ServiceError: another command or run changes which version is in service.
        """
        with self._lease("models rollback", self.card(name)):
            promotions = self.promotions(name)
            if len(promotions) < 2:
                raise UsageError(f"model {name!r} in {self.folder}: no earlier version was in service; promote one")
            self.space(self.card(name, promotions[1].version))
            self._write_current(name, promotions[1:])
            return promotions[0].version, promotions[1].version

    def _lease(self, job: str, card: ModelCard) -> AbstractContextManager[None]:
        return change_lease(self._root, f"promote-{card.name}", job)

    def space(self, card: ModelCard, layer: str = "") -> Space:
        """The feature space of a version: the output of its head, or another of its layers.

        Raises:
            DataError: its weights are missing, or do not have the checksum in its card.
        """
        if not self._files.exists(self.weights(card)):
            raise DataError(f"{self.weights(card)} is missing; train the model again, or promote another version")
        space = resolve(f"{card.name}.{layer or card.layer}", self.weights(card), self._cache)
        if space.weights_sha256 != card.weights.sha256:
            raise DataError(
                f"{self.weights(card)} has checksum {space.weights_sha256[:12]}, its card says "
                f"{card.weights.sha256[:12]}: it was changed; train the model again, or promote another version"
            )
        return space

    def spaces(self, name: str) -> Iterator[Space]:
        """The spaces of a name as `clothes.embedding` in each version of the model, the one in service first."""
        backbone, _, layer = name.partition("@")[0].partition(".")
        model, *variants = backbone.split("-")
        current = self.in_service(model)
        others = [version for version in reversed(self.versions(model)) if not current or version != current.version]
        for card in [*([current] if current else []), *(self.card(model, version) for version in others)]:
            space = self.space(card, layer)
            yield resolve(f"{backbone}.{layer}", space.weights_path, self._cache) if variants else space

    def _write_current(self, name: str, promotions: Sequence[Promotion]) -> None:
        self._write(uris.join(self.folder, name, CURRENT), Promotions(promotions=promotions))

    def _write(self, uri: str, record: FrozenModel) -> None:
        self._files.write(uri, record.model_dump_json(indent=2).encode() + b"\n")

    def _read(self, kind: type[_Record], uri: str, remedy: str) -> _Record:
        try:
            return kind.model_validate_json(self._files.read(uri))
        except ValueError as error:
            raise DataError(f"{uri} is damaged ({error}); {remedy}") from None


def override_reason(force: bool, reason: str) -> str:
    """The reason to overrule a gate, from the flags --force and --reason; empty if the gate decides.

    Raises:
        UsageError: one flag was given without the other.
    """
    if force != bool(reason):
        raise UsageError("--force wants --reason WHY, and --reason wants --force: the reason is saved")
    return reason
