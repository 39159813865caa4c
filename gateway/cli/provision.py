"""`genba provision plant.yaml`: a certificate of this box's own, from a claim certificate that its fleet shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cloud_sinks.iot_core.config import IotCoreConfig
    from gateway.config import Configuration


@click.command("provision")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("sink", required=False)
@click.option("--template", required=True, help="Name of the provisioning template.")
@click.option("--claim-certificate", type=click.Path(path_type=Path), required=True, help="PEM file of the claim certificate.")
@click.option("--claim-key", type=click.Path(path_type=Path), required=True, help="PEM file of its private key.")
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of the template; repeatable.")
@click.option("--verify/--no-verify", default=True, help="Connect with the new certificate at the end.  [default: verify]")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def command(
    file: Path,
    sink: str | None,
    template: str,
    claim_certificate: Path,
    claim_key: Path,
    parameters: Sequence[str],
    verify: bool,
    as_json: bool,
) -> None:
    """Provision this box for the sink SINK of FILE (needed where several are of kind iot_core).

    The key and the certificate are written where the entry says (`key`, `certificate`). The key is made here and never leaves. Run it
    again after whatever went wrong: it goes on where it was, and does nothing where the certificate is there.
    """
    import asyncio
    import json

    from gateway import config
    from gateway.deploy.provision import Claim, Fleet, Provisioned
    from schemas.errors import ConfigError

    configuration = config.load(file, strict_env=False)
    entry = _entry(configuration, sink)
    claim = Claim(claim_certificate, claim_key, template, dict(_pair(text) for text in parameters))

    async def run() -> Provisioned:
        fleet = Fleet(entry, configuration.directory, claim, lambda line: click.echo(line, err=as_json))
        made = await fleet.run()
        if verify:
            await fleet.verify(made.thing)
        return made

    made = asyncio.run(run())
    if as_json:
        told = {
            "thing": made.thing, "certificate": str(made.certificate), "key": str(made.key),
            "configuration": dict(made.configuration), "fresh": made.fresh,
        }  # fmt: skip
        click.echo(json.dumps(told, ensure_ascii=False, indent=1))
    elif not made.fresh:
        click.echo(f"{made.certificate} is there already; move it and {made.key} away to provision this box anew")
    for name, value in ({} if as_json else made.configuration).items():
        click.echo(f"  {name}: {value}")
    if made.thing and made.thing != entry.thing:
        raise ConfigError(
            f"the template has named this box {made.thing!r}, and the file says thing: {entry.thing}",
            where=str(file),
            hint=f"write thing: {made.thing}",
        )


def _entry(configuration: Configuration, name: str | None) -> IotCoreConfig:
    from cloud_sinks.iot_core.config import IotCoreConfig
    from gateway.suggest import listed
    from schemas.errors import ConfigError

    found = {key: one for key, one in configuration.plant.sinks.items() if isinstance(one, IotCoreConfig)}
    where = str(configuration.path)
    if name is not None and name in found:
        return found[name]
    if name is not None or not found:
        hint = f"those of kind iot_core are {listed(found)}" if found else "add a sink of kind iot_core"
        raise ConfigError(f"there is no sink {name or 'of kind iot_core'} to provision", where=where, hint=hint)
    if len(found) > 1:
        raise ConfigError("several sinks are of kind iot_core", where=where, hint=f"name one: {listed(found)}")
    return next(iter(found.values()))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--parameter")
    return name, value
