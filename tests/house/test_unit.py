"""The systemd unit lets an adapter have a process of its own."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy" / "genba.service"
NEEDED = {"vfork", "clone", "execve", "prctl", "prlimit64", "kill", "setsid", "pipe2", "wait4", "dup2"}


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, encoding="utf-8")
    return parser["Service"]


def test_nothing_in_the_unit_forbids_a_child(service: configparser.SectionProxy) -> None:
    assert "TasksMax" not in service
    assert "LimitNPROC" not in service
    assert "NoExecPaths" not in service
    assert service["OOMPolicy"] == "continue", "an adapter that the kernel kills is no reason to stop the gateway"


def test_its_system_calls_allow_one(service: configparser.SectionProxy) -> None:
    if shutil.which("systemd-analyze") is None:
        message = "systemd-analyze is missing; install it with: apt-get install systemd"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    allowed, todo = set[str](), service["SystemCallFilter"].split()
    while todo:
        group = todo.pop()
        listed = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True).stdout
        for line in listed.splitlines()[1:]:
            name = re.sub(r"#.*", "", line).strip()
            if name.startswith("@"):
                todo.append(name)
            elif name:
                allowed.add(name)
    assert allowed >= NEEDED
    assert "reboot" not in allowed, "the control"


def test_the_nightly_compaction_calls_what_there_is(tmp_path: Path) -> None:
    """Every option of the example is one of the command; the timer starts the service beside it."""
    from click.testing import CliRunner

    from gateway.cli import genba

    lines = [
        line
        for line in (UNIT.parent / "genba-compact.service").read_text(encoding="utf-8").splitlines()
        if line.startswith("ExecStart")
    ]
    assert len(lines) == 2
    (tmp_path / "lake" / "tags").mkdir(parents=True)
    for line in lines:
        program, *arguments = line.partition("=")[2].replace("/var/lib/genba", str(tmp_path)).split()
        assert program == "/opt/genba/bin/genba"
        done = CliRunner().invoke(genba, arguments)
        assert done.exit_code == 0, done.output
    assert (UNIT.parent / "genba-compact.timer").exists()
    if shutil.which("systemd-analyze") is None:
        return
    done_ = subprocess.run(["systemd-analyze", "calendar", "*-*-* 01:00:00 UTC"], capture_output=True, text=True, check=False)
    assert done_.returncode == 0, done_.stderr
