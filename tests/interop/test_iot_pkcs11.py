"""IoT Core with the private key in a security module: SoftHSM 2 and mosquitto that asks for a certificate."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_sinks.iot_core import PLUGIN
from cloud_sinks.iot_core.config import IotCoreConfig
from schemas.errors import ConfigError, NotConnected
from tests.authority import Authority
from tests.conformance.sink import Tags, batch_of, context_of, span_of
from tests.conftest import ManualClock
from tests.interop.conftest import missing
from tests.interop.test_iot_core import listening, start_broker

pytestmark = pytest.mark.interop
PIN = "4711"
LIBRARIES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The library, with tokens in a folder of this module: a process reads where they are when it loads the library, once."""
    found = next((path for path in LIBRARIES if Path(path).exists()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        missing("SoftHSM", "apt-get install softhsm2")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    softhsm("--init-token", "--free", "--label", "gateway", "--so-pin", "0815", "--pin", PIN)
    yield found
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


def softhsm(*arguments: str) -> None:
    subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True)


def imported(key: Path, name: str) -> None:
    softhsm("--import", str(key), "--token", "gateway", "--label", name, "--id", os.urandom(4).hex(), "--pin", PIN)


def label(folder: Path) -> str:
    """A name for the key of a folder."""
    return f"key of {folder.parent.name}/{folder.name}"


@pytest.fixture
def broker(mosquitto: Callable[..., Any], library: str) -> Any:
    """Its client's key is in the token, below the name of its folder, and in no file any more."""
    made = start_broker(mosquitto)
    imported(made.key, label(made.folder))
    made.key.unlink()
    return made


def config(broker: Any, library: str, /, **options: Any) -> IotCoreConfig:
    module = {"library": library, "token": "gateway", "key": label(broker.folder), "pin": PIN, **options}
    given = {
        "endpoint": "localhost", "port": broker.tls_port, "thing": "gw-1", "certificate": str(broker.certificate),
        "ca": str(broker.ca), "timeout": "20s", "pkcs11": {name: value for name, value in module.items() if value is not None},
    }  # fmt: skip
    return IotCoreConfig.model_validate(given)


async def test_the_module_signs_and_rows_arrive(broker: Any, library: str, tmp_path: Path, manual_clock: ManualClock) -> None:
    context = context_of(tmp_path, manual_clock)
    assert isinstance(context.tags, Tags)
    made = config(broker, library)
    assert PIN not in repr(made)
    sink = PLUGIN.build(made, context)
    with listening(broker.port, "genba/#") as listener:
        for first in (0, 3):  # each connection is one of its own
            await sink.connect()
            await sink.write([batch_of("alert", first, 3, context.tags)], span_of("alert", first, 3))
        assert len(await asyncio.to_thread(listener.wait, 6)) == 6
    await sink.aclose()


@pytest.mark.parametrize(
    ("options", "says", "where"),
    [
        ({"library": "/none/pkcs11.so"}, "cannot be loaded", "library"),
        ({"token": "other"}, "no token", "token"),
        ({"key": "other"}, "no private key", "key"),
    ],
)
async def test_what_is_not_there_is_for_a_person(
    broker: Any, library: str, tmp_path: Path, manual_clock: ManualClock, options: dict[str, Any], says: str, where: str
) -> None:
    sink = PLUGIN.build(config(broker, library, **options), context_of(tmp_path, manual_clock))
    with pytest.raises(ConfigError, match=says) as caught:
        await sink.connect()
    assert caught.value.where == f"sinks.out.pkcs11.{where}"
    await sink.aclose()


async def test_a_wrong_pin_is_tried_once(
    broker: Any, library: str, tmp_path: Path, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivery tries a misconfigured sink again and again; a token that is asked with a wrong PIN so often locks itself."""
    sink = PLUGIN.build(config(broker, library, pin="0000"), context_of(tmp_path, manual_clock))
    for _ in range(3):
        with pytest.raises(ConfigError, match="the PIN is refused") as caught:
            await sink.connect()
        assert "0000" not in str(caught.value)
        monkeypatch.setattr("awscrt.io.Pkcs11Lib", None)  # from the second time on the module is not even asked
        monkeypatch.setattr("awsiot.mqtt5_client_builder.mtls_with_pkcs11", None)
    await sink.aclose()


async def test_a_certificate_of_another_key_is_refused(
    broker: Any, library: str, tmp_path: Path, manual_clock: ManualClock
) -> None:
    """The control: the module holds a key that does not belong to the certificate."""
    Authority(tmp_path, "other")
    name = label(tmp_path)
    await asyncio.to_thread(imported, tmp_path / "other.key", name)
    sink = PLUGIN.build(config(broker, library, key=name), context_of(tmp_path, manual_clock))
    with pytest.raises((NotConnected, ConfigError)):
        await sink.connect()
    await sink.aclose()
