"""What the controller remembers: one seam, an in-memory twin and SQLite."""

from __future__ import annotations

from pathlib import Path

from controller.errors import UserError
from controller.store.base import Store

_SQLITE = "sqlite:///"
MEMORY = "memory://"


def open_store(url: str, tenant: str) -> Store:
    """The store of one tenant at ``sqlite:///PATH`` or ``memory://`` (nothing is kept).

    Raises:
        UserError: another kind of address, or a database of a newer Fitment.
    """
    if url == MEMORY:
        from controller.store.memory import MemoryStore

        return MemoryStore(tenant)
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        from controller.store.sql import SqlStore

        return SqlStore(Path(url.removeprefix(_SQLITE)), tenant)
    raise UserError(f"no store at '{url}': use sqlite:///PATH, or memory:// to keep nothing")
