"""A Kinesis stream on loopback that fails by plan: what no emulator does. Keeps every record that it took, in order."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Kind = Literal["partial", "throttled", "error", "reset", "taken, then reset", "silence"]


@dataclass(frozen=True)
class Fault:
    """What happens to one PutRecords. `entries` are the positions that a `partial` one refuses."""

    kind: Kind
    entries: tuple[int, ...] = ()
    code: str = "ProvisionedThroughputExceededException"


class Stub:
    """One stream of any name. `plan` holds a fault for each PutRecords to come (None: none)."""

    def __init__(self) -> None:
        self.plan: list[Fault | None] = []
        self.taken: list[tuple[str, bytes]] = []
        self.requests: list[list[tuple[str, int]]] = []  # key and bytes of each entry
        self.away = False
        self.slow_s = 0.0  # before each answer to PutRecords
        self.status = "ACTIVE"
        self._stop = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                action = self.headers["X-Amz-Target"].rpartition(".")[2]
                if outer.away:
                    self._hang_up()
                elif action == "PutRecords":
                    self._put(body)
                elif body.get("StreamName", "there") == "not-there":
                    self._answer(400, {"__type": "ResourceNotFoundException", "message": "Stream not-there not found."})
                else:
                    self._answer(200, {"StreamDescriptionSummary": {"StreamStatus": outer.status}})

            def _put(self, body: dict[str, Any]) -> None:
                entries = [(one["PartitionKey"], base64.b64decode(one["Data"])) for one in body["Records"]]
                outer.requests.append([(key, len(data)) for key, data in entries])
                outer._stop.wait(outer.slow_s)
                fault = outer.plan.pop(0) if outer.plan else None
                kind = fault.kind if fault is not None else ""
                if kind == "silence":
                    outer._stop.wait(30)
                if kind in ("reset", "silence"):
                    self._hang_up()
                elif kind == "throttled":
                    self._answer(400, {"__type": "ProvisionedThroughputExceededException", "message": "Rate exceeded"})
                elif kind == "error":
                    assert fault is not None
                    self._answer(500, {"__type": fault.code, "message": "by plan"})
                else:
                    refused = fault.entries if fault is not None and kind == "partial" else ()
                    outer.taken += [entry for number, entry in enumerate(entries) if number not in refused]
                    if kind == "taken, then reset":
                        self._hang_up()
                        return
                    code = fault.code if fault is not None else ""
                    told = [
                        {"ErrorCode": code, "ErrorMessage": "slow down"}
                        if number in refused
                        else {"SequenceNumber": str(number), "ShardId": "shardId-0"}
                        for number in range(len(entries))
                    ]
                    self._answer(200, {"FailedRecordCount": len(refused), "Records": told})

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("x-amzn-RequestId", "1")
                self.end_headers()
                self.wfile.write(data)

            def _hang_up(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that hung up is no news."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Every line of JSON that it took, in order."""
        return [json.loads(line) for _, data in self.taken for line in data.splitlines()]

    def close(self) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
