"""Looks at the spool of a gateway from outside, whether that runs or not: what the ledger says. Writes nothing, takes no lock. Blocking."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import ConfigError

from .book import Book
from .identity import read_identity
from .ledger_file import LedgerFile
from .storage import DiskStorage


def look(directory: Path) -> Book:
    """The newest content of the ledger that is whole, with the gateway and epoch of the spool.

    Of a running gateway it may be a moment old, never older than what is durable. Raises ConfigError where there is no spool or no
    usable ledger in it, or it cannot be read.
    """
    storage = DiskStorage()
    path = directory / "ledger"
    if not path.is_file():
        raise ConfigError(f"{directory} is no spool: there is no ledger in it", hint="name the directory below `spool:`")
    try:
        file = LedgerFile(path, storage)
        book = file.load()
        identity = read_identity(directory, storage)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}", hint="run it as the gateway's user") from error
    if file.condition == "lost":
        raise ConfigError(f"{path} is damaged", hint="start the gateway once: it makes a new ledger and says what it knows")
    if identity is not None:
        book.gateway, book.epoch = identity.gateway, identity.epoch
    return book
