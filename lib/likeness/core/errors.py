"""The project's exceptions, each with the exit code of a command that ends with it.

Bad input data raises none of them: it becomes a row of the failure ledger. They are for a wrong configuration, a
service that fails, and a gate that refuses. A message names the thing, the value and the remedy.
"""


class LikenessError(Exception):
    """Base of the project's exceptions; a command that ends with one exits with `exit_code`.

    `message` leaves out the remedy that is a command or a flag: it is for whoever runs likeness, not for callers of the
    HTTP API. The text of the exception has both.
    """

    exit_code = 1

    def __init__(self, message: str = "", remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message


class UsageError(LikenessError):
    """A command, a parameter or a setting is wrong."""

    exit_code = 2


class MissingRootError(UsageError):
    """The root that is named does not exist; exit code 1, since nothing is wrong with the command itself."""

    exit_code = 1


class ServiceError(LikenessError):
    """Something that a run depends on (Java, a store, a weights file, a lease) is missing, fails or is busy."""


class DataError(LikenessError):
    """Stored data is inconsistent: a checksum, a count or an id does not fit."""


class SpaceMismatch(DataError):
    """Vectors of two feature spaces were to be compared."""


class GateError(LikenessError):
    """A gate refused to go on, so nothing was published."""

    exit_code = 3
