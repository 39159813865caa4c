"""Opens the connection of a configuration entry, and says in words what went wrong where that fails."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path

from schemas.errors import NotConnected

from .config import ModbusConfig
from .exchange import Connection
from .line import open_line, open_line_tcp
from .tcp import open_tcp
from .tls import failure_of, tls_context
from .udp import open_udp


async def open_connection(config: ModbusConfig, base: Path = Path()) -> Connection:
    """Connect within the timeout; paths of certificates are relative to `base`. Raises NotConnected with the reason, and ConfigError for what a person must edit."""
    try:
        match config.transport:
            case "tcp":
                return await open_tcp(config)
            case "udp":
                return await open_udp(config)
            case "rtu" | "ascii":
                return await open_line(config)
            case "rtu+tcp" | "ascii+tcp":
                return await open_line_tcp(config)
            case "tls":
                return await open_tcp(config, await asyncio.to_thread(tls_context, config, base))
    except TimeoutError as error:
        raise NotConnected(f"{config.endpoint} does not answer within {config.timeout}") from error
    except ssl.SSLError as error:
        raise failure_of(config, error) from error
    except OSError as error:
        raise NotConnected(f"{config.endpoint}: {_reason(error)}") from error
    except NotConnected as error:
        raise NotConnected(f"{config.endpoint}: {error}") from error


def _reason(error: OSError) -> str:
    """`Connection refused`, where asyncio says which call failed."""
    system = isinstance(error.errno, int) and error.errno > 0 and not isinstance(error, socket.gaierror)
    return os.strerror(error.errno) if system and error.errno else error.strerror or str(error)
