"""Errors say who must act.

`ConfigError`: a person edits a file. `NotConnected`: the supervisor reconnects with back-off. `Busy`: the caller waits.
`Rejected`: the rows go to the dead-letter directory. `EndOfStream`: the source is finished. `StateMismatch`: the model
starts fresh and says so. Anything else is a bug: the task crashes, is restarted and counted.
"""

from __future__ import annotations

from collections.abc import Sequence


class GenbaError(Exception):
    """Base of every error that genba raises on purpose."""


class ConfigError(GenbaError):
    """A person must edit something. The command line exits with 2.

    `where` names the place as `file:line:column`, or the key path when the file is not known; `hint` says the way out.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.where, self.hint = message, where, hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class NotConnected(GenbaError):
    """The other side is not there or went away. The supervisor reconnects with back-off; nobody edits anything.

    `quality` is the OPC UA status code that the affected tags carry meanwhile (0: the supervisor chooses).
    """

    def __init__(self, message: str, *, quality: int = 0) -> None:
        super().__init__(message)
        self.quality = quality


class Busy(GenbaError):
    """The other side asks to wait `wait_s` seconds; the same call is repeated afterwards."""

    def __init__(self, wait_s: float, message: str = "busy") -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Rejected(GenbaError):
    """The other side will never take these rows. Delivery writes them to the dead-letter directory with the reason.

    `rows` are row numbers (`seq`) of the spool; empty means every row of the write.
    """

    def __init__(self, reason: str, rows: Sequence[int] = ()) -> None:
        super().__init__(reason)
        self.reason, self.rows = reason, tuple(rows)


class EndOfStream(GenbaError):
    """The source has no more data (a replayed file); the task ends without being restarted."""


class StateMismatch(GenbaError):
    """A snapshot belongs to another model, version or parameter set; the model starts fresh and says so."""
