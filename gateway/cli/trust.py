"""`genba trust list|accept|reject|own`: whose certificates the connections trust, and which one is ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from gateway.config import Configuration
    from schemas.certificates import StoredCertificate, TrustStore

_STATES: Final = {
    "rejected": ("yellow", "rejected: not trusted until somebody compares it and accepts it"),
    "trusted": ("green", "trusted"),
    "issuer": ("cyan", "issuer: completes chains, is not trusted itself"),
    "own": ("blue", "ours: the other side must trust it"),
    "renewed": ("blue", "ours, renewed: the other side should trust it before the old one expires"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """What was named on the command line: a file and perhaps one of its adapters, or a directory."""

    file: Path | None
    adapter: str | None
    directory: Path | None

    @property
    def words(self) -> str:
        """As it is written behind `genba trust accept`."""
        if self.directory is not None:
            return f"--directory {self.directory}"
        return f"{self.file}" + (f" {self.adapter}" if self.adapter else "")


def _where(command: Callable[..., None]) -> Callable[..., None]:
    directory = click.option(
        "--directory", type=click.Path(path_type=Path), help="A trust list itself (the directory that `security.trust` names)."
    )
    return directory(command)


@click.group("trust")
def command() -> None:
    """Show and change whose certificates the connections of a file trust.

    FILE is the configuration, ADAPTER one of its entries; with --directory neither is needed. A running gateway takes a change up
    at its next attempt to connect, within 30 s, without a restart.
    """


@command.command("list")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.argument("adapter", required=False)
@_where
@click.option("--json", "as_json", is_flag=True, help="Print the certificates as JSON.")
def list_(file: Path | None, adapter: str | None, directory: Path | None, as_json: bool) -> None:
    """Show trusted and rejected certificates, why they were rejected, and ours."""
    place = Place(file, adapter, directory)
    found = {name: store.entries() for name, store in _stores(place).items()}
    if as_json:
        _print_json(found)
        return
    for name, entries in found.items():
        click.echo(f"{name}:")
        if not entries:
            click.echo("  no certificate yet; the one of a server that is not trusted comes here when the gateway first meets it")
        for state, (colour, title) in _STATES.items():
            those = [entry for entry in entries if entry.state == state]
            if those:
                click.echo(f"  {click.style(title, fg=colour)}")
            for entry in those:
                for line in lines(entry):
                    click.echo(f"    {line}")
                if state == "rejected":
                    click.echo(f"    -> genba trust accept {place.words} {entry.sha256[:12]}")


@command.command("accept")
@click.argument("arguments", nargs=-1, required=True, metavar="[FILE [ADAPTER]] FINGERPRINT")
@_where
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
def accept(arguments: Sequence[str], directory: Path | None, as_json: bool) -> None:
    """Trust the rejected certificate whose SHA-256 or SHA-1 fingerprint begins with FINGERPRINT.

    Compare the whole fingerprint with the one that the server shows before you do.
    """
    _change(arguments, directory, as_json, lambda store, fingerprint: store.accept(fingerprint), "is trusted now")


@command.command("reject")
@click.argument("arguments", nargs=-1, required=True, metavar="[FILE [ADAPTER]] FINGERPRINT")
@_where
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
def reject(arguments: Sequence[str], directory: Path | None, as_json: bool) -> None:
    """Trust the certificate whose SHA-256 or SHA-1 fingerprint begins with FINGERPRINT no longer.

    It takes effect at the next connection; one that stands is not cut.
    """
    _change(arguments, directory, as_json, lambda store, fingerprint: store.reject(fingerprint), "is not trusted any more")


@command.command("own")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.argument("adapter", required=False)
@_where
@click.option("--export", type=click.Path(path_type=Path), help="Copy the certificate (DER, without the key) to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
def own(file: Path | None, adapter: str | None, directory: Path | None, export: Path | None, as_json: bool) -> None:
    """Show our certificate, to hand to the administrator of the server; it is made when there is none yet.

    Run it as the user that runs the gateway: its key belongs to that user alone.
    """
    from schemas.errors import ConfigError

    found = {
        name: entry for name, store in _stores(Place(file, adapter, directory)).items() if (entry := store.own()) is not None
    }
    if not found:
        raise ConfigError("no connection there has a certificate of its own", hint="it needs `security` with a policy")
    if export is not None:
        if len(found) > 1:
            raise click.UsageError(f"say whose certificate: {', '.join(found)}")
        (entry,) = found.values()
        try:
            export.write_bytes(entry.path.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot write {export}: {error.strerror}", hint="name another file") from error
    if as_json:
        _print_json({name: [entry] for name, entry in found.items()})
        return
    for name, entry in found.items():
        click.echo(f"{name}:")
        for line in lines(entry):
            click.echo(f"    {line}")
    if export is not None:
        click.echo(f"copied to {export}")


def lines(entry: StoredCertificate) -> Iterator[str]:
    """A certificate for people."""
    yield entry.subject
    yield f"  application  {entry.uri or '-'}"
    yield f"  hosts        {', '.join(entry.hosts) or '-'}"
    yield f"  valid        {_day(entry.valid_from_us)} to {_day(entry.expires_us)}"
    yield f"  issuer       {entry.issuer}"
    yield f"  key          {entry.key}, signature {entry.signature}"
    yield f"  SHA-256      {entry.sha256}"
    yield f"  SHA-1        {entry.sha1}"
    yield f"  file         {entry.path}"
    if entry.reason:
        yield f"  reason       {entry.reason}"


def _change(
    arguments: Sequence[str],
    directory: Path | None,
    as_json: bool,
    act: Callable[[TrustStore, str], StoredCertificate],
    said: str,
) -> None:
    from schemas.errors import ConfigError

    *where, fingerprint = arguments
    if len(where) > 2:
        raise click.UsageError("write [FILE [ADAPTER]] FINGERPRINT")
    place = Place(Path(where[0]) if where else None, where[1] if len(where) > 1 else None, directory)
    stores = _stores(place)
    done: dict[str, StoredCertificate] = {}
    refusals: list[ConfigError] = []
    for name, store in stores.items():
        try:
            done[name] = act(store, fingerprint)
        except ConfigError as error:
            refusals.append(error)
    if not done:  # of several lists the one says most that has something like it
        raise max(refusals, key=lambda error: ("fits" in error.message, "did you mean" in error.hint))
    if as_json:
        _print_json({name: [entry] for name, entry in done.items()})
        return
    for name, entry in done.items():
        click.echo(f"{name}: {entry.subject} {said}")
        click.echo(f"    SHA-256 {entry.sha256}")
    click.echo("A running gateway takes this up at its next attempt to connect, within 30 s.")


def _stores(place: Place) -> Mapping[str, TrustStore]:
    """The trust lists that were named, by adapter. Raises click.UsageError and ConfigError."""
    from gateway import catalogue
    from schemas import plugin
    from schemas.errors import ConfigError

    if (place.file is None) == (place.directory is None):
        raise click.UsageError("name a configuration file, or --directory")
    if place.directory is not None:
        hooks = [hook for kind in catalogue.names("adapters") if (hook := catalogue.plugin("adapters", kind).trust) is not None]
        at = plugin.Place("", place.directory, place.directory)
        found = [store for hook in hooks if (store := hook(None, at)) is not None]
        return {str(place.directory): found[0]}
    from gateway import config

    assert place.file is not None
    configuration = config.load(place.file, strict_env=False)
    stores = dict(_of_entries(configuration, place.adapter))
    if not stores:
        whose = place.adapter or "no adapter of this file"
        raise ConfigError(
            f"{whose} uses no certificates" if place.adapter else f"{whose} uses certificates",
            hint="certificates come with `security: {policy: Basic256Sha256}`",
        )
    return stores


def _of_entries(configuration: Configuration, adapter: str | None) -> Iterator[tuple[str, TrustStore]]:
    from gateway import catalogue
    from gateway.suggest import did_you_mean
    from schemas import plugin
    from schemas.errors import ConfigError

    entries: Mapping[str, Any] = configuration.plant.adapters
    if adapter is not None and adapter not in entries:
        hint = did_you_mean(adapter, entries) or f"there is {', '.join(entries)}"
        raise ConfigError(f"there is no adapter {adapter!r} in the file", hint=hint)
    state = configuration.directory / configuration.plant.spool.directory / "adapters"
    for name, entry in entries.items():
        hook = catalogue.plugin("adapters", entry.kind).trust
        if hook is None or adapter not in (None, name):
            continue
        store = hook(entry, plugin.Place(name, state / name, configuration.directory))
        if store is not None:
            yield name, store


def _day(time_us: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d}"


def _print_json(found: Mapping[str, Sequence[StoredCertificate]]) -> None:
    told = {name: [asdict(entry) | {"path": str(entry.path)} for entry in entries] for name, entries in found.items()}
    click.echo(json.dumps(told, ensure_ascii=False, indent=1))
