"""Whether anything listens at an address: the first thing that every doctor looks at."""

from __future__ import annotations

import asyncio
import os
import socket

from schemas.plugin import Check


async def reach(host: str, port: int, *, timeout_s: float) -> Check:
    """Open a TCP connection and close it again; nothing is sent. The check is called `network`."""
    at = f"{host}:{port}"
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(timeout_s):
            transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
    except socket.gaierror:
        return Check("network", "failure", f"the name {host!r} is not known", "check the host name, or write the IP address")
    except TimeoutError:
        return Check(
            "network",
            "failure",
            f"{at} does not answer in {timeout_s:g} s",
            "check power, cable and IP address, and that no firewall or router in between drops the port",
        )
    except ConnectionRefusedError:
        return Check(
            "network",
            "failure",
            f"{host} is there and refuses port {port}",
            "check the port; the server may be switched off on the device, or not started",
        )
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        return Check("network", "failure", f"{at}: {why}", "check the network of the gateway")
    transport.abort()
    await asyncio.sleep(0)  # the loop closes the socket
    return Check("network", "ok", f"{at} accepts connections, in {(loop.time() - began) * 1e3:.0f} ms")
