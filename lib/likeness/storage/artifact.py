"""Artifacts: immutable files with path, size and checksum."""

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """Base of immutable records; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class File(FrozenModel):
    """A file of a build or a model: its path relative to their folder, its bytes and SHA-256."""

    name: str
    bytes: int
    sha256: str
