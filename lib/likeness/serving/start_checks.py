"""Checks of a service's settings that need more than the settings themselves: the root, stores, files and models."""

from likeness import storage
from likeness.core import uris
from likeness.core.errors import ServiceError, UsageError
from likeness.core.settings import Serve, Settings
from likeness.models.backbones import registry
from likeness.models.model_registry import ModelRegistry
from likeness.serving.hints import suggest


def check_start(settings: Settings) -> None:
    """Checks what would else show in answers only: that what the settings name exists.

    A store that does not answer is no error: the service follows it, and answers once it can.

    Raises:
        MissingRootError: there is no such root.
        UsageError: the URI of a store, a weights file, a space or a category model cannot be used.
    """
    storage.check_keyed_uri(storage.keyed_uri(settings.keyed.uri, settings.root))
    try:
        storage.check_root(settings.root)
        models = ModelRegistry(settings.root).names()
        weights = uris.canonical(settings.extract.weights) if settings.extract.weights else ""
        missing = bool(weights) and not storage.files(weights).exists(weights)
    except (ServiceError, OSError):
        return
    if missing:
        raise UsageError(f"extract.weights = {weights!r}: no such file; name a safetensors file or a torch state dict")
    _check_spaces(settings, models)
    name = settings.serve.category_model
    if name and name != Serve().category_model and name not in models:
        raise UsageError(f"serve.category_model = {name!r}: no such model in the root; {suggest(name, models)}")


def _check_spaces(settings: Settings, models: list[str]) -> None:
    for name in settings.spaces:
        backbone = name.partition("@")[0].partition(".")[0].partition("-")[0]
        if not settings.extract.weights and backbone not in [*registry(), *models]:
            closest = suggest(backbone, [*registry(), *models])
            raise UsageError(f"spaces: {name!r} is of no known network or model; {closest}")
