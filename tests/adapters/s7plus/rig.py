"""What the tests of symbolic access are built from: configurations, simulated PLCs, a log that can be read."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from adapters.base import AdapterContext, SimulatorContext
from adapters.s7plus import PLUGIN, S7PlusConfig
from adapters.s7plus.adapter import S7PlusAdapter
from adapters.s7plus.simulator import Emulator, S7PlusSimulator
from adapters.simulation import Scenario, SignalConfig, Signals
from tests.conformance.adapter import SystemClock, bind

Row = dict[str, Any]


def configure(tags: Mapping[str, tuple[str, str]], endpoint: str = "s7://127.0.0.1", **more: Any) -> S7PlusConfig:
    """Unencrypted, scan 20 ms, timeout 1 s."""
    spelled = {name: {"address": address, "type": kind} for name, (address, kind) in tags.items()}
    given = {"kind": "s7plus", "endpoint": endpoint, "scan": "20ms", "timeout": "1s", "tags": spelled}
    return S7PlusConfig.model_validate(given | more)


def make_simulator(config: S7PlusConfig, values: Mapping[str, float | str] | None = None) -> S7PlusSimulator:
    """A PLC that shows `values` by tag name."""
    signals = {f"**/{name}": SignalConfig(constant=value) for name, value in (values or {}).items()}
    plant = Signals(Scenario(signals=signals), asyncio.get_running_loop().time)
    return S7PlusSimulator(config, SimulatorContext("plc", bind("plc", config), plant, "UTC"))


def make_adapter(config: S7PlusConfig, endpoint: str, directory: Path, log: Any = None) -> S7PlusAdapter:
    config = config.model_copy(update={"endpoint": endpoint})
    context = AdapterContext("plc", bind("plc", config), SystemClock(), directory, log or structlog.get_logger())
    built = PLUGIN.build(config, context)
    assert isinstance(built, S7PlusAdapter)
    return built


@asynccontextmanager
async def connected(config: S7PlusConfig, endpoint: str, directory: Path, log: Any = None) -> AsyncIterator[S7PlusAdapter]:
    adapter = make_adapter(config, endpoint, directory, log)
    try:
        await adapter.connect()
        yield adapter
    finally:
        await adapter.aclose()


async def take(adapter: S7PlusAdapter, batches: int) -> list[pa.RecordBatch]:
    taken: list[pa.RecordBatch] = []
    async with asyncio.timeout(15), aclosing(adapter.batches()) as stream:
        while len(taken) < batches:
            taken.append(await anext(stream))
    return taken


def rows_of(config: S7PlusConfig, batch: pa.RecordBatch) -> dict[str, Row]:
    names = {bound.tag.id: bound.tag.name for bound in bind("plc", config)}
    return {names[row["tag"]]: row for row in batch.to_pylist()}


class Capture:
    """A log that tests read."""

    def __init__(self) -> None:
        self._capture = structlog.testing.LogCapture()
        self.log = structlog.wrap_logger(None, processors=[self._capture], wrapper_class=structlog.stdlib.BoundLogger)

    @property
    def lines(self) -> Sequence[Mapping[str, Any]]:
        return self._capture.entries


@contextmanager
def free_port() -> Iterator[int]:
    """A port that nobody listens on; it is free to be taken within the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    yield port


@dataclass(frozen=True)
class Certificate:
    """A certificate of a PLC at 127.0.0.1, self-signed."""

    certificate: Path
    key: Path
    fingerprint: str


def make_certificate(folder: Path) -> Certificate:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PLC_1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    files = folder / "plc.pem", folder / "plc.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return Certificate(*files, made.fingerprint(hashes.SHA256()).hex())


@asynccontextmanager
async def encrypted(emulator: Emulator, certificate: Certificate) -> AsyncIterator[str]:
    """The emulator in its own threads, with TLS; its endpoint."""
    with free_port() as port:
        pass
    files = {"tls_cert": str(certificate.certificate), "tls_key": str(certificate.key)}
    await asyncio.to_thread(lambda: emulator.start("127.0.0.1", port, use_tls=True, **files))
    try:
        yield f"tls://127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(emulator.stop)
