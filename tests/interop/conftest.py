"""Servers that nobody here wrote: libmodbus, modbus-serial, node-opcua, node-snap7 and mosquitto, on loopback, ended by pid.

Each fixture is a function that starts one server: `server = libmodbus_server()`. In an async test where other tasks must go on
meanwhile, call it (and `restart`) through `asyncio.to_thread`. What is not installed skips the test, or fails it when CI=true.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.conftest import missing as absent

S = TypeVar("S", bound="Server")
HERE = Path(__file__).parent
START_S = 30.0


@dataclass
class Server:
    """One running server. `port` stays the same over `restart`; all methods block shortly and may be called in any order."""

    command: Callable[[int], Sequence[str | Path]]
    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        assert self.process is not None, "not running"
        return self.process.pid

    @property
    def log(self) -> str:
        """What the server wrote since its last start."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Starts it on `port` (0: a port of its own choice) and returns once it accepts connections."""
        assert self.process is None, "already running"
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in self.command(self.port)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        deadline = time.monotonic() + START_S
        while not self._listening():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = self.log
                self.kill()
                pytest.fail(f"{self.command(self.port)[0]} does not start:\n{text}")
            time.sleep(0.02)

    def _listening(self) -> bool:
        for line in self.log.splitlines():
            if line.startswith("PORT ") and not self.port:
                self.port = int(line.split()[1])
        if not self.port:
            return False
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """SIGKILL: connections break as if the power went. Nothing happens when it is not running."""
        self._end("kill")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after 5 s."""
        self._end("terminate")

    def _end(self, how: str) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        getattr(process, how)()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Kills it if it runs and starts it again on the same port."""
        self.kill()
        self.start()


@dataclass
class LineServer(Server):
    """A server on a serial device; it has no port."""

    def _listening(self) -> bool:
        return "PORT 0" in self.log.splitlines()


@dataclass
class Broker(Server):
    """mosquitto. With TLS: `tls_port`, the authority's certificate `ca`, and a client's `certificate` and `key` (PEM files)."""

    tls_port: int = 0
    ca: Path = Path()
    certificate: Path = Path()
    key: Path = Path()


def missing(what: str, command: str) -> NoReturn:
    """Skips the test, or fails it where everything must be there (CI=true)."""
    absent(f"{what} is missing; install it with: {command}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Started:
    """The servers of one test; all are ended with it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._servers = folder, list[Server]()

    def new_folder(self) -> Path:
        folder = self._folder / f"server-{len(self._servers)}"
        folder.mkdir()
        return folder

    def start(self, server: S) -> S:
        self._servers.append(server)
        server.start()
        return server

    def close(self) -> None:
        for server in self._servers:
            server.stop()


@pytest.fixture
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    started = Started(tmp_path_factory.mktemp("interop"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def libmodbus_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Modbus server, compiled once a session."""
    install = "apt-get install gcc libc6-dev libmodbus-dev"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        missing("a C compiler", install)
    if not Path("/usr/include/modbus/modbus.h").exists():
        missing("libmodbus", install)
    binary = tmp_path_factory.mktemp("libmodbus") / "modbus_server"
    source = HERE / "servers" / "modbus_server.c"
    command = [
        compiler,
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O1",
        str(source),
        "-I/usr/include/modbus",
        "-lmodbus",
        "-o",
        str(binary),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return binary


@pytest.fixture
def libmodbus_server(started: Started, libmodbus_binary: Path) -> Callable[[], Server]:
    """Starts Modbus TCP servers; the register map is at the top of servers/modbus_server.c."""
    return lambda: started.start(Server(lambda port: [libmodbus_binary, str(port)], started.new_folder()))


@pytest.fixture
def libmodbus_line(started: Started, libmodbus_binary: Path) -> Callable[[str], Server]:
    """Starts a Modbus RTU server on a serial device: `libmodbus_line("/dev/pts/7")`."""
    return lambda device: started.start(LineServer(lambda _port: [libmodbus_binary, device], started.new_folder()))


def _node(script: str, package: str) -> Callable[[int], list[str | Path]]:
    node = shutil.which("node")
    if node is None:
        missing("node", "apt-get install nodejs npm")
    if not (HERE / "node_modules" / package / "package.json").exists():
        missing(package, "npm ci --prefix tests/interop")
    return lambda port: [str(node), HERE / "servers" / script, str(port)]


@pytest.fixture
def modbus_serial_server(started: Started) -> Callable[[], Server]:
    """Starts Modbus TCP servers made of modbus-serial; the register map is at the top of servers/modbus_server.js."""
    command = _node("modbus_server.js", "modbus-serial")
    return lambda: started.start(Server(command, started.new_folder()))


@pytest.fixture
def opcua_node_server(started: Started) -> Callable[..., Server]:
    """Starts OPC UA servers (about 2 s); address space and settings are at the top of servers/opcua_server.js."""
    command = _node("opcua_server.js", "node-opcua-server")

    def start(**settings: object) -> Server:
        folder = started.new_folder()
        return started.start(Server(lambda port: [*command(port), folder, json.dumps(settings)], folder))

    return start


@pytest.fixture
def opcua_plant_server(started: Started) -> Callable[[], Server]:
    """Starts OPC UA servers with history and alarms; the address space is at the top of servers/opcua_plant_server.js."""
    command = _node("opcua_plant_server.js", "node-opcua-server")

    def start() -> Server:
        folder = started.new_folder()
        return started.start(Server(lambda port: [*command(port), folder], folder))

    return start


@pytest.fixture
def snap7_node_server(started: Started) -> Callable[[], Server]:
    """Starts S7 servers; the data blocks are at the top of servers/s7_server.js."""
    command = _node("s7_server.js", "node-snap7")
    return lambda: started.start(Server(command, started.new_folder()))


def mosquitto_in(started: Started) -> Callable[..., Broker]:
    """Starts brokers: `mosquitto()`, or `mosquitto(tls=True)` for a second listener with TLS. Anonymous, MQTT 3.1.1 and 5.

    Sessions and retained messages survive `restart` when they are older than a second.
    """
    binary = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        missing("mosquitto", "apt-get install mosquitto")

    def start(*, tls: bool = False) -> Broker:
        folder = started.new_folder()
        broker = Broker(lambda _: [str(binary), "-c", folder / "mosquitto.conf"], folder, port=free_port())
        lines = [f"listener {broker.port} 127.0.0.1", "allow_anonymous true"]
        if tls:
            broker.tls_port = free_port()
            broker.ca, broker.certificate, broker.key = folder / "ca.pem", folder / "client.pem", folder / "client.key"
            _write_certificates(folder)
            lines += [f"listener {broker.tls_port} 127.0.0.1", f"cafile {broker.ca}"]
            lines += [f"certfile {folder / 'server.pem'}", f"keyfile {folder / 'server.key'}"]
        lines += [
            "user root",
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_interval 1",
            "autosave_on_changes true",
        ]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        return started.start(broker)

    return start


@pytest.fixture
def mosquitto(started: Started) -> Callable[..., Broker]:
    """See `mosquitto_in`."""
    return mosquitto_in(started)


def _write_certificates(folder: Path) -> None:
    """An authority and, signed by it, a server for localhost and a client, as PEM files, valid for a day."""
    now = datetime.datetime.now(datetime.UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    for name in ("ca", "server", "client"):
        key = authority_key if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        subject = authority if name == "ca" else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        )
        if name == "server":
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.sign(authority_key, hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
