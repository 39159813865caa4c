"""The only durable state of a gateway: one segment log per kind of data, and a ledger of who has had what.

`Spool` is what other rooms use; `docs/spool-format.md` describes the files.
"""

from .accounts import Account
from .book import Cursor, Cut, Pin, Resend
from .ledger import Ledger
from .losses import Loss
from .recovery import KindRecovery
from .retention import WhenFull
from .spool import Spool
from .storage import DiskStorage, Storage

__all__ = [
    "Account",
    "Cursor",
    "Cut",
    "DiskStorage",
    "KindRecovery",
    "Ledger",
    "Loss",
    "Pin",
    "Resend",
    "Spool",
    "Storage",
    "WhenFull",
]
