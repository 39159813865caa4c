"""A serial port on the event loop: pyserial knows the settings, the loop waits for bytes."""

from __future__ import annotations

import asyncio
import errno
import os
import termios

import serial

from schemas.errors import ConfigError, NotConnected

from .config import SerialConfig

_PARITY = {"even": serial.PARITY_EVEN, "odd": serial.PARITY_ODD, "none": serial.PARITY_NONE}


class SerialPort:
    """An open port that hands what it receives to a protocol. Opening may block and is done by a thread."""

    def __init__(self, port: serial.Serial, protocol: asyncio.Protocol) -> None:
        self._port, self._protocol = port, protocol
        self._loop = asyncio.get_running_loop()
        self._fd: int | None = port.fileno()
        self._loop.add_reader(self._fd, self._readable)

    @classmethod
    async def open(cls, path: str, options: SerialConfig, protocol: asyncio.Protocol, *, bits: int = 8) -> SerialPort:
        """Open for this process alone, with so many data bits unless `options` says otherwise. Raises OSError, NotConnected, or ConfigError for what only a person can change."""
        opening = asyncio.get_running_loop().run_in_executor(None, _open, path, options, bits)
        try:
            return cls(await asyncio.shield(opening), protocol)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_if_open)
            raise

    def write(self, data: bytes) -> None:
        """Send; a request is a few bytes and always fits into the port's buffer."""
        if self._fd is None:
            return
        try:
            if os.write(self._fd, data) == len(data):
                return
            self._lost(OSError(errno.EIO, "the port does not take bytes"))
        except OSError as error:
            self._lost(error)

    def close(self) -> None:
        """Let go of the port; what it has not sent is not sent any more."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._loop.remove_reader(fd)
            self._port.close()

    def _readable(self) -> None:
        assert self._fd is not None
        try:
            data = os.read(self._fd, 4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error)
            return
        if data:
            self._protocol.data_received(data)
        else:
            self._lost(OSError(errno.EIO, "the port is gone"))

    def _lost(self, error: OSError) -> None:
        self.close()
        self._loop.call_soon(self._protocol.connection_lost, error)


def _open(path: str, options: SerialConfig, bits: int) -> serial.Serial:
    try:
        return serial.Serial(
            path,
            options.baud,
            options.data_bits or bits,
            parity=_PARITY[options.parity],
            stopbits=options.stop_bits,
            timeout=0,
            write_timeout=0,
            exclusive=True,
        )
    except (ValueError, termios.error) as error:
        if error.args[0] in (errno.EIO, errno.ENODEV, errno.ENXIO):  # unplugged meanwhile
            raise OSError(error.args[0], os.strerror(error.args[0])) from error
        given = f"{options.baud} baud, parity {options.parity}, {options.stop_bits} stop bits"
        raise ConfigError(f"{path} does not have these settings: {given}", hint="change `serial`") from error
    except serial.SerialException as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ConfigError(
                f"{path}: permission denied", hint="add the user that runs genba to the group of the port, often dialout"
            ) from error
        if error.errno in (errno.EAGAIN, errno.EBUSY) or "exclusively lock" in str(error):
            raise NotConnected(f"{path} is in use by another program, or by another entry of this configuration") from error
        raise


def _close_if_open(opening: asyncio.Future[serial.Serial]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
