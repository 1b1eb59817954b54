"""Run reports: a run's row and its build in, an HTML file out."""
from typing import Any
from likeness import uris, stores
from likeness.manifest import Manifest
from likeness.settings import Settings


def summary(facts: dict[str, dict[str, Any]], manifest: Manifest, root: str) -> str:
    return str(facts)


def write(row: dict[str, Any], settings: Settings, manifest: Manifest) -> str:
    return ""
