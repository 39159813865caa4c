"""The command line. One file a command: the listing of this folder is the catalogue, and each exports `command`.

Exit codes: 0 fine, 1 it went wrong while running, 2 a person must edit or call it otherwise, 3 the other side is not reached.
"""

from __future__ import annotations

import importlib
import keyword
import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from gateway import __version__

FINE: Final = 0
FAILED: Final = 1
CONFIGURATION: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130


class Commands(click.Group):
    """Finds commands by file name and imports one when it is called. A command that cannot be loaded leaves the others alone.

    `package` is the folder of files that each export `command`; a folder in it that exports one too is a group of its own.
    """

    def __init__(self, *arguments: Any, package: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, sorted."""
        del ctx
        folder = Path(next(iter(importlib.import_module(self._package).__path__)))
        names = {entry.stem for entry in folder.iterdir() if entry.suffix == ".py" or (entry / "__init__.py").is_file()}
        return sorted(name.rstrip("_").replace("_", "-") for name in names if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None when there is none, which click then says."""
        if cmd_name not in self.list_commands(ctx):
            return None
        try:
            file = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name.replace("-", "_")  # import_.py is `import`
            module = importlib.import_module(f"{self._package}.{file}")
            found = module.command
        except Exception as error:  # noqa: BLE001 (whatever is wrong with one command, `genba --help` and the others work)
            return _unavailable(cmd_name, error)
        if not isinstance(found, click.Command):
            return _unavailable(cmd_name, TypeError(f"`command` is {type(found).__name__}"))
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a mistyped name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from gateway.suggest import did_you_mean

            hint = did_you_mean(args[0], self.list_commands(ctx)) if args else ""
            if not hint:
                raise
            raise click.UsageError(f"{error.message.rstrip('.')}, {hint}", ctx) from None


def _unavailable(name: str, error: Exception) -> click.Command:
    def fail() -> None:
        raise click.ClickException(f"the command {name!r} cannot be loaded: {type(error).__name__}: {error}")

    return click.Command(name, callback=fail, help=f"Cannot be loaded: {type(error).__name__}.", add_help_option=False)


@click.group(cls=Commands, package=__name__, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="genba", message="%(prog)s %(version)s")
def genba() -> None:
    """Industrial edge gateway: reads machines, watches them with models, delivers alerts and a Parquet lake.

    Begin with `genba init`, then `genba check plant.yaml`, `genba simulate plant.yaml` and `genba run plant.yaml`.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit. Errors that genba raises on purpose are one clean message on stderr, anything else is a bug and a traceback."""
    _start_light()
    from schemas.errors import ConfigError, GenbaError, NotConnected

    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a terminal that cannot show °C must not end the gateway
    try:
        code = genba.main(arguments, prog_name="genba", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ConfigError as error:
        complain(error)
        sys.exit(CONFIGURATION)
    except NotConnected as error:
        complain(error)
        sys.exit(UNREACHABLE)
    except GenbaError as error:
        complain(error)
        sys.exit(FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush goes nowhere, quietly
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else FINE)


def _start_light() -> None:
    """Leave out what costs a fifth of the time of `genba check`, before the libraries are imported that look at it."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start spinning threads; our vectors are short
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # pydantic would search every distribution for plug-ins


def complain(error: Exception) -> None:
    """An error as people read it, on stderr: of a configuration every finding, of anything else one line."""
    from gateway.config import ConfigurationInvalid

    if isinstance(error, ConfigurationInvalid):
        from gateway.config.summary import findings

        click.echo(findings(error.diagnostics), err=True)
    else:
        click.echo(f"error: {error}", err=True)
