"""The project's exceptions: one root class, few kinds, each with the exit code of the command contract.

Bad data is never an exception: it is a row of the failure ledger. These are for a bad configuration, a bad
system and a refusal by a gate. A message names the thing, the value and the remedy.
"""


class LikenessError(Exception):
    """Root of all; a run that ends with it exits with `exit_code`."""

    exit_code = 1


class UsageError(LikenessError):
    """The command or its configuration cannot be meant as given."""

    exit_code = 2


class ServiceError(LikenessError):
    """Something the run depends on (Java, a store, a weights file, a lease) is missing, dead or busy."""


class DataError(LikenessError):
    """What is stored contradicts itself: a checksum, a count, a colliding id."""


class SpaceMismatch(DataError):
    """Vectors of two feature spaces would have been compared."""


class GateError(LikenessError):
    """A gate refused to go on; nothing was published."""

    exit_code = 3
