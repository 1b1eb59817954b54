"""`likeness hbase-init`: creates the tables of the keyed store.   [typer]"""

from likeness import storage
from likeness.cli.common import with_settings
from likeness.core import uris
from likeness.core.errors import UsageError
from likeness.core.settings import Settings


@with_settings
def hbase_init(settings: Settings) -> None:
    """Create the keyed store's tables in HBase.

    Existing tables are not changed.
    """
    uri = storage.keyed_uri(settings.keyed.uri, settings.root)
    if uris.scheme(uri) != "hbase":
        raise UsageError(f"keyed.uri = {uri!r} is not HBase; write hbase://host:port/name")
    storage.keyed(uri, create=True).close()
    print(f"{uri}: all tables exist")
