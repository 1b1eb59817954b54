"""`likeness hbase-init`: the tables of the keyed store.   [typer]"""

from likeness import storage
from likeness.cli.common import Assignments, Config, Root, load
from likeness.core import uris
from likeness.core.errors import UsageError


def hbase_init(root: Root = None, config: Config = None, assignments: Assignments = None) -> None:
    """Make the tables that the keyed store lacks in HBase; those that are there stay as they are."""
    settings = load(root, config, assignments)
    uri = storage.keyed_uri(settings.keyed.uri, settings.root)
    if uris.scheme(uri) != "hbase":
        raise UsageError(f"keyed.uri = {uri!r} is not HBase; write hbase://host:port/name")
    storage.keyed(uri, create=True).close()
    print(f"{uri}: all tables are there")
