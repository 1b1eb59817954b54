"""Artifacts: immutable files, each known by its path, length and checksum. Data only."""

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """A record that stays as it was made; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class File(FrozenModel):
    """One file of a build: its name in the space's folder (`build/file`), bytes and SHA-256."""

    name: str
    bytes: int
    sha256: str
