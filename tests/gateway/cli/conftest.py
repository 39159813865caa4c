"""Calls the command line as its console script does, in this process and in one of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gateway.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


Genba = Callable[..., Done]


@pytest.fixture
def genba(capsys: pytest.CaptureFixture[str]) -> Genba:
    def run(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        code = caught.value.code
        return Done(code if isinstance(code, int) else 1, said.out, said.err)

    return run
