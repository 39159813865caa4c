"""What `genba doctor` finds on a machine and around a configuration."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import socket
import time
from collections import namedtuple
from types import SimpleNamespace

import pytest

from gateway import doctor
from tests.e2e import plant

Usage = namedtuple("Usage", "total used free")


def found(checks):
    return {check.name: check for check in checks}


def reach(endpoint, **options):
    configuration = SimpleNamespace(plant=SimpleNamespace(adapters={"press": SimpleNamespace(endpoint=endpoint)}, sinks={}))
    return list(doctor.reachability(configuration, **options))


def test_this_machine_is_fine_and_nothing_is_left_on_its_disk(tmp_path):
    checks = found(doctor.machine(tmp_path / "not" / "yet"))
    assert list(checks) == ["python", "packages", "clock", "disk", "flush"]
    assert {check.result for check in checks.values()} == {"ok"}
    assert all(check.way_out == "" for check in checks.values())
    assert str(tmp_path) in checks["disk"].found
    assert list(tmp_path.iterdir()) == []


def test_packages_of_others_are_a_failure_with_their_names(monkeypatch):
    owners = {"gateway": ["genba"], "schemas": ["Genba", "schemas-of-others"], "adapters": ["genba", "adapters"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: owners)
    assert doctor.foreign_owners() == {"adapters": ["adapters"], "schemas": ["schemas-of-others"]}
    check = found(doctor.machine(doctor.Path()))["packages"]
    assert check.result == "failure"
    assert "schemas also belongs to schemas-of-others" in check.found
    assert "environment of its own" in check.way_out


def test_a_clock_that_was_never_set_and_a_full_disk_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 5_000_000))
    checks = found(doctor.machine(tmp_path))
    assert (checks["clock"].result, checks["disk"].result) == ("failure", "warning")
    assert "time client" in checks["clock"].way_out


def test_a_spool_directory_that_cannot_be_written_is_a_failure_with_its_reason(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    check = found(doctor.machine(tmp_path))["flush"]
    assert (check.result, check.found) == ("failure", f"{tmp_path}: Permission denied")
    assert "write access" in check.way_out


def test_a_slow_disk_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: time.sleep(0.051))
    assert found(doctor.machine(tmp_path))["flush"].result == "warning"


def test_something_that_answers():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        (check,) = reach(f"tcp://127.0.0.1:{server.getsockname()[1]}")
    assert check.result == "ok"


def test_a_port_that_refuses_a_name_that_is_unknown_and_one_that_cannot_be_a_name():
    (refused,) = reach("tcp://127.0.0.1:1")
    assert (refused.result, "refuses port 1" in refused.found, "port" in refused.way_out) == ("failure", True, True)
    (unknown,) = reach("tcp://press.invalid:502")
    assert (unknown.result, "not known" in unknown.found) == ("failure", True)
    (impossible,) = reach("tcp://press..invalid:502")
    assert (impossible.result, "not known" in impossible.found) == ("failure", True)


def test_no_answer_is_told_with_the_time_waited(monkeypatch):
    def silent(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    (check,) = reach("s7://10.255.255.1", timeout_s=0.5)
    assert "no answer in 0.5 s" in check.found
    assert "firewall" in check.way_out


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("tcp://h", 502),
        ("opc.tcp://h/path", 4840),
        ("s7://h?rack=0", 102),
        ("mqtt://h", 1883),
        ("mqtts://h", 8883),
        ("tls://h:9", 9),
    ],
)
def test_the_port_is_the_usual_one_of_the_protocol(monkeypatch, endpoint, port):
    asked = []
    monkeypatch.setattr(doctor, "_reach", lambda name, text, host, number, wait: asked.append((host, number)))
    reach(endpoint)
    assert asked == [("h", port)]


@pytest.mark.parametrize("endpoint", ["rtu:/dev/ttyUSB0", None, "file:///tmp/x"])
def test_what_has_no_host_is_not_asked(endpoint):
    assert reach(endpoint) == []


def test_with_a_file_devices_and_sinks_are_asked_and_an_absent_one_is_status_3(tmp_path, monkeypatch, capsys):
    from gateway.cli import main

    path = plant.write(tmp_path, plant.HEAD + plant.PRESS + "sinks:\n" + plant.LAKE)
    for arguments in (["doctor", str(path)], ["doctor", str(path), "--json"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 3
        out = capsys.readouterr().out
        assert "refuses port 1" in out
        assert "Traceback" not in out
    checks = {check["name"]: check for check in json.loads(out)}
    assert checks["press"]["result"] == "failure"
    assert checks["disk"]["result"] == "ok"
    assert not (tmp_path / "spool").exists()
