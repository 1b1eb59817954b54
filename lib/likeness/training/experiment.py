"""An experiment: prepared data, task and images in; datasets, predictions and metrics of networks out.   [torch]"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from likeness.core.settings import Train
from likeness.core.statistics import Figure
from likeness.models.backbones import Space
from likeness.training.data import TrainingData
from likeness.training.distributed import Workers
from likeness.training.image_cache import ImageCache
from likeness.training.inputs import FeatureCache, Inputs, PhotoInputs
from likeness.training.network import ALL, Network
from likeness.training.plan import TrainingPlan
from likeness.training.tasks.task import Predictions, Task
from likeness.training.trainer import Dataset, Validator, predict


@dataclass(frozen=True)
class Experiment:
    """A prepared training in one process; it builds, validates and measures networks.

    Args:
        plan: of the training.
        workers: the process group.
        space: the space whose network is trained.
        task: what is learned.
        data: the photos.
        targets: of the task, by row of the data.
        images: the decoded photos; None where stored vectors are the inputs.
    """

    plan: TrainingPlan
    workers: Workers
    space: Space
    task: Task
    data: TrainingData
    targets: torch.Tensor
    images: ImageCache | None

    @property
    def settings(self) -> Train:
        """The training settings."""
        return self.plan.settings.train

    def build(self, settings: Train, rows: np.ndarray) -> tuple[Network, Dataset]:
        """Builds an untrained network, and its dataset of these rows of the data, int64 (n,)."""
        torch.manual_seed(settings.seed)
        scratch = self.plan.request.scratch
        network = Network(
            self.space,
            self.task.head(self.space.dim, settings),
            self.plan.settings.extract.cache,
            ALL if scratch else settings.unfreeze,
            settings.dropout,
            scratch,
        )
        loss = self.task.loss(self.targets[: self.data.train_count], settings, self.workers)
        return network, Dataset(self._inputs(network), rows, self.targets, loss)

    def outputs(self, network: Network, inputs: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A network's outputs for rows, float32 (n, outputs), and their targets."""
        outputs = predict(network, inputs, rows, self.workers.device, self.task.keeps_head)
        return outputs, self._targets_of(rows)

    def predictions(self, network: Network, inputs: Inputs, rows: np.ndarray, gallery_rows: np.ndarray) -> Predictions:
        """A network's predictions for rows, with those of the gallery where the task searches for neighbours."""
        return self._predictions(lambda part: self.outputs(network, inputs, part)[0], rows, gallery_rows)

    def validator(self, dataset: Dataset, train_rows: np.ndarray, validation_rows: np.ndarray) -> Validator:
        """Returns a function that computes the task's main metric of a network on validation rows."""
        predictions = self.predictions
        return lambda one: self.task.main_metric(predictions(one, dataset.inputs, validation_rows, train_rows))

    def baseline(self) -> dict[str, Figure]:
        """The metrics before training, for tasks that are measured by neighbours; else empty.

        They are those of the stored vectors, or of the network with random weights.
        """
        rows, gallery_rows = self.data.evaluation_rows, self.data.train_rows
        if not self.task.uses_gallery:
            return {}
        if self.plan.request.scratch:
            network, dataset = self.build(self.settings, gallery_rows)
            return self.task.metrics(self.predictions(network, dataset.inputs, rows, gallery_rows))
        if not self.plan.uses_stored_vectors:
            return {}
        return self.task.metrics(self._predictions(lambda part: self.data.vectors[part], rows, gallery_rows))

    def _predictions(
        self, outputs: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, gallery_rows: np.ndarray
    ) -> Predictions:
        gallery_rows = gallery_rows if self.task.uses_gallery else gallery_rows[:0]
        annotations, gallery = ([self.data.annotations[n] for n in part.tolist()] for part in (rows, gallery_rows))
        return Predictions(outputs(rows), annotations, self._targets_of(rows), outputs(gallery_rows), gallery)

    def _targets_of(self, rows: np.ndarray) -> np.ndarray:
        return self.targets[torch.from_numpy(rows)].numpy()

    def _inputs(self, network: Network) -> Inputs:
        if self.images is None:
            return FeatureCache(self.data.vectors[:, None])
        positions = self.images.positions(self.data.image_ids)
        if network.input_kind == "photos":
            return PhotoInputs(self.images.pixels, positions, network)
        maps = self.images.feature_maps(network, self.settings.distort, self.settings.seed)
        return FeatureCache(maps, positions)
