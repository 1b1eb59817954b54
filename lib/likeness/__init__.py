"""likeness: visual search for product catalogues on a Hadoop stack."""

from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from likeness.serving.client import Client
    from likeness.serving.library import Library

__version__ = "0.1.0"
__all__ = ["Client", "Library", "__version__", "open"]


def open(root: str | PathLike[str] = "var", config: str | None = None, **settings: Any) -> "Library":
    """Opens a root for searches in this process; no server is needed.

    >>> with likeness.open("var") as library:
    ...     answer = library.search("hat.jpg", k=3)
    >>> [result.category for result in answer.results][0]
    'hat'

    Args:
        root: folder or URI that holds everything the project writes.
        config: a TOML file of settings.
        settings: settings by name, `__` in place of a dot, such as `extract__runtime="torch"`.

    Raises:
        UsageError: there is no such root, or a setting is wrong.
    """
    from likeness.core.settings import load_settings
    from likeness.serving.library import Library

    flags = {name.replace("__", "."): value for name, value in settings.items()}
    return Library(load_settings(config, {"root": str(root), **flags}))


def __getattr__(name: str) -> Any:
    """Loads `Client` and `Library` on first use, so that `import likeness` needs no other library."""
    if name in ("Client", "Library"):
        return getattr(import_module(f"likeness.serving.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
