"""Training reports: how a version was trained, and where it errs; `report.json` beside its card. Data only."""

from collections.abc import Mapping, Sequence

from pydantic import ConfigDict, Field

from likeness.models.model_card import Metric
from likeness.storage.artifact import FrozenModel


class _Part(FrozenModel):
    """Keys on disk may be older than the names of the fields; NaN is written as such."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True, ser_json_inf_nan="constants")


class Epoch(_Part):
    """One pass over the training photos: mean loss, metric on validation photos (NaN without), seconds, photos."""

    loss: float
    validation: float = Field(alias="judged")
    seconds: float
    photos: int


class CurvePoint(_Part):
    """What one way of training, with transfer or from scratch, reaches in so many seconds."""

    name: str
    value: float
    seconds: float


class CurveRow(_Part):
    """The learning curve at a number of training photos: a point for each way of training."""

    photos: int
    ways: Sequence[CurvePoint]


class CalibrationBin(_Part):
    """Photos whose predicted probability is about the same: their mean confidence and accuracy."""

    photos: int
    confidence: float = Field(alias="sure")
    accuracy: float = Field(alias="right")


class Calibration(_Part):
    """Reliability of a classifier's probabilities; `error` is the expected calibration error."""

    bins: Sequence[CalibrationBin]
    error: float


class Mistake(_Part):
    """A photo that was classified wrongly, and the probability of the predicted class."""

    image_id: str
    truth: str
    predicted: str = Field(alias="said")
    confidence: float = Field(alias="sure")


class ErrorAnalysis(_Part):
    """Where a classifier errs: confusion matrix (rows are the truth), calibration, and the most confident mistakes."""

    confusion: Sequence[Sequence[int]]
    calibration: Calibration
    mistakes: Sequence[Mistake]


class TrainingReport(_Part):
    """The history of a training, its learning curve, and the metrics of the network before it (`baseline`).

    `best` is the epoch whose weights were kept, from 0. Classifiers have an error analysis in the last three fields.
    """

    epochs: Sequence[Epoch] = Field(alias="course")
    best: int
    baseline: Mapping[str, Metric] = Field({}, alias="before")
    curve: Sequence[CurveRow] = ()
    confusion: Sequence[Sequence[int]] | None = None
    calibration: Calibration | None = None
    mistakes: Sequence[Mistake] = ()
