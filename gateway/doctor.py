"""What `genba doctor` looks at on this machine and around a configuration, each with what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog

from cloud_sinks.base import Examined, SinkContext
from schemas.errors import Busy, ConfigError, NotConnected
from schemas.plugin import Check
from schemas.tags import Tag

from . import catalogue
from .clock import WallClock, looks_unset
from .config import Configuration

PACKAGES: Final = ("gateway", "adapters", "schemas", "edge_models", "cloud_sinks")


def foreign_owners() -> dict[str, list[str]]:
    """Which of our five package names another installed distribution owns as well: then imports may find the wrong code."""
    owners = importlib.metadata.packages_distributions()
    found = {name: sorted({owner for owner in owners.get(name, []) if owner.lower() != "genba"}) for name in PACKAGES}
    return {name: others for name, others in found.items() if others}


def machine(directory: Path) -> Iterator[Check]:
    """Python, package names, clock, disk and its flush time, where `directory` will hold the spool."""
    version = platform.python_version()
    ok = sys.version_info >= (3, 11)
    yield Check("python", "ok" if ok else "failure", version, "" if ok else "install Python 3.11 or newer")
    foreign = foreign_owners()
    told = ", ".join(f"{name} also belongs to {' and '.join(owners)}" for name, owners in foreign.items())
    yield Check(
        "packages",
        "failure" if foreign else "ok",
        told or "all five are ours",
        "install genba in an environment of its own" if foreign else "",
    )
    unset = looks_unset(time.time_ns() // 1000)
    yield Check(
        "clock",
        "failure" if unset else "ok",
        time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "set the clock or start a time client" if unset else "",
    )
    place = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    yield Check(
        "disk",
        "ok" if free > 1e9 else "warning",
        f"{free / 1e9:.1f} GB free at {place}",
        "" if free > 1e9 else "free some space: the spool lives here",
    )
    yield _flush(place)


def _flush(place: Path) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".genba-doctor-") as file:
            times = []
            for _ in range(20):
                file.write(b"x" * 4096)
                file.flush()
                began = time.perf_counter()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - began)
    except OSError as error:
        return Check(
            "flush", "failure", f"{place}: {error.strerror}", "give the gateway's user write access to the spool directory"
        )
    ms = sorted(times)[10] * 1e3
    return Check(
        "flush",
        "ok" if ms < 50 else "warning",
        f"{ms:.1f} ms a flush",
        "" if ms < 50 else "a slow disk delays every acknowledgement; use another one",
    )


def reachability(configuration: Configuration, *, timeout_s: float = 2.0) -> Iterator[Check]:
    """One TCP connection to each adapter's and sink's endpoint. Reads and writes nothing there."""
    for name, config in [*configuration.plant.adapters.items(), *configuration.plant.sinks.items()]:
        endpoint = getattr(config, "endpoint", None)
        if not isinstance(endpoint, str) or "://" not in endpoint:
            continue
        parts = urlsplit(endpoint)
        if parts.scheme == "udp":
            continue  # nothing to connect to; `genba doctor modbus` asks the device
        default = {"tcp": 502, "opc.tcp": 4840, "s7": 102, "mqtt": 1883, "mqtts": 8883, "tls": 802, "wss": 443}.get(parts.scheme)
        port = parts.port or default
        if not parts.hostname or port is None:
            continue
        yield _reach(name, endpoint, parts.hostname, port, timeout_s)


def sinks(configuration: Configuration) -> Iterator[Check]:
    """What each sink that can be examined says of its service. Writes nothing there."""
    plant = configuration.plant
    for name, config in plant.sinks.items():
        with tempfile.TemporaryDirectory(prefix="genba-doctor-") as scratch:
            context = SinkContext(
                name=name,
                enterprise=plant.enterprise,
                site=plant.site,
                gateway=plant.gateway,
                tags=_NoTags(),
                clock=WallClock(),
                directory=Path(scratch),
                base=configuration.directory,
                log=structlog.stdlib.get_logger(),
                time_zone=plant.time_zone,
            )
            try:
                sink = catalogue.plugin("sinks", config.kind).build(config, context)
                if isinstance(sink, Examined):
                    yield Check(name, "ok", sink.examine())
            except ConfigError as error:
                where = f"{error.where}: " if error.where else ""
                yield Check(name, "failure", f"{where}{error.message}", error.hint)
            except (NotConnected, Busy) as error:
                yield Check(name, "failure", str(error), "nobody edits anything for this: the gateway tries again by itself")


class _NoTags:
    """A tag directory for who asks no tag."""

    def __getitem__(self, tag_id: int) -> Tag:
        raise KeyError(tag_id)

    def __iter__(self) -> Iterator[Tag]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _reach(name: str, endpoint: str, host: str, port: int, timeout_s: float) -> Check:
    began = time.perf_counter()
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return Check(name, "ok", f"{endpoint} answers in {(time.perf_counter() - began) * 1e3:.0f} ms")
    except (socket.gaierror, UnicodeError):  # UnicodeError: not even a possible name, such as `a..b`
        return Check(
            name, "failure", f"{endpoint}: the name {host!r} is not known", "check the host name, or write the IP address"
        )
    except TimeoutError:
        return Check(name, "failure", f"{endpoint}: no answer in {timeout_s:g} s", "check power, cable, address and firewall")
    except ConnectionRefusedError:
        return Check(
            name,
            "failure",
            f"{endpoint}: {host} is there and refuses port {port}",
            "check the port, and that the server is started",
        )
    except OSError as error:
        return Check(name, "failure", f"{endpoint}: {error.strerror or error}", "check the network of the gateway")
