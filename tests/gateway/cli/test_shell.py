"""The command line as a whole: finding commands, exit codes, clean messages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import gateway.cli
from schemas.errors import Busy, ConfigError, EndOfStream, NotConnected

Genba = Callable[..., Any]
COMMANDS = {"check", "explain", "init", "run", "schema", "simulate", "test", "demo", "doctor"}


def test_help_lists_every_command(genba: Genba) -> None:
    done = genba("--help")
    assert done.status == 0
    listed = {line.split()[0] for line in done.out.partition("Commands:")[2].splitlines() if line.strip()}
    assert listed >= COMMANDS
    assert "Cannot be loaded" not in done.out


def test_help_imports_nothing_heavy() -> None:
    code = "import sys\nfrom gateway.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    code += "print(sorted({'pydantic', 'yaml', 'numpy', 'pyarrow', 'asyncio', 'structlog', 'rich', 'asyncua', 'polars'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(genba: Genba) -> None:
    done = genba("--version")
    assert (done.status, done.out) == (0, f"genba {gateway.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["chek", "x"], "did you mean 'check'?"), (["check"], "Missing argument"), (["check", "--frmat", "x"], "No such option")],
)
def test_a_wrong_call_ends_with_2(genba: Genba, arguments: list[str], said: str) -> None:
    done = genba(*arguments)
    assert done.status == 2
    assert said in done.err
    assert done.out == ""


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """A command `check` that raises."""

    def arrange(error: BaseException) -> None:
        @click.command("check")
        def command() -> None:
            raise error

        monkeypatch.setattr(gateway.cli.Commands, "get_command", lambda self, context, name: command)

    return arrange


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            ConfigError("no such port", where="plant.yaml:3:1", hint="write 502"),
            2,
            "error: plant.yaml:3:1: no such port (write 502)\n",
        ),
        (NotConnected("press-07 does not answer"), 3, "error: press-07 does not answer\n"),
        (Busy(1.0, "too much at once"), 1, "error: too much at once\n"),
        (EndOfStream("no more rows"), 1, "error: no more rows\n"),
        (click.ClickException("plant.yaml is there already"), 1, "Error: plant.yaml is there already\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_on_purpose_are_clean(
    genba: Genba, failing: Callable[[BaseException], None], error: BaseException, status: int, said: str
) -> None:
    failing(error)
    done = genba("check")
    assert (done.status, done.err.lstrip("\n")) == (status, said)


def test_a_bug_is_not_hidden(failing: Callable[[BaseException], None]) -> None:
    failing(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        gateway.cli.main(["check"])


def test_a_command_that_cannot_be_loaded_leaves_the_others_alone(
    genba: Genba, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torn.py").write_text("1 / 0\n")
    (tmp_path / "odd.py").write_text("command = 5\n")
    monkeypatch.setattr(gateway.cli, "__path__", [*gateway.cli.__path__, str(tmp_path)])
    usual = gateway.cli.Commands.list_commands
    monkeypatch.setattr(
        gateway.cli.Commands, "list_commands", lambda self, context: sorted([*usual(self, context), "torn", "odd"])
    )
    assert "check" in genba("--help").out
    for name, reason in (("torn", "ZeroDivisionError"), ("odd", "TypeError")):
        done = genba(name)
        assert (done.status, reason in done.err) == (1, True)
    assert genba("explain", "E012").status == 0


def test_a_pipe_that_is_closed_is_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m gateway schema | head -1", shell=True, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("{")
    assert "Traceback" not in done.stderr


def test_a_terminal_that_lacks_a_character_does_not_end_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-m", "gateway", "explain", "E001"],
        env={"PYTHONIOENCODING": "latin-1:strict"}, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert b"must be saved as \\u201cCSV UTF-8\\u201d" in done.stdout
