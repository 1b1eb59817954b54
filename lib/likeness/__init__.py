"""likeness: visual search for product catalogues on a Hadoop stack."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from likeness.serving.client import Client

__version__ = "0.1.0"
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> Any:
    """The client is loaded when it is asked for: nothing else here needs its library."""
    if name == "Client":
        from likeness.serving.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
