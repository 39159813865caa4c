"""The bundle installs and works on a machine without network: a network namespace that has none."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import missing

Run = Callable[..., subprocess.CompletedProcess[str]]
WITHOUT_NETWORK = ("unshare", "--map-root-user", "--net")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def original(build_bundle: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bundle, built and unpacked once."""
    folder = tmp_path_factory.mktemp("dist")
    archive: Path = build_bundle.main(["--output", str(folder)])
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    yield folder / archive.name.removesuffix(".tar.gz")
    shutil.rmtree(folder)


@pytest.fixture
def unpacked(original: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of links: what a test changes it must `swap`."""
    copy = tmp_path / "bundle"
    yield Path(shutil.copytree(original, copy, copy_function=os.link))
    shutil.rmtree(copy)
    shutil.rmtree(tmp_path / "opt", ignore_errors=True)


def swap(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


@pytest.fixture
def no_network(run: Run) -> tuple[str, ...]:
    """The words before a command that take its network away. Proves that they do."""
    if shutil.which("unshare") is None or run(*WITHOUT_NETWORK, "true", status=None).returncode:
        missing("network namespaces are not allowed here (unshare --map-root-user --net)")
    refused = run(*WITHOUT_NETWORK, "python3", "-c", "import socket; socket.create_connection(('192.0.2.1', 9), 2)", status=1)
    assert "Network is unreachable" in refused.stderr
    return WITHOUT_NETWORK


def test_installs_and_checks_an_example_without_network(
    unpacked: Path, no_network: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    prefix = tmp_path / "opt" / "genba"
    said = run(*no_network, unpacked / "install.sh", "--python", sys.executable, "--prefix", prefix)
    assert "0.1.0" in said.stdout
    genba = prefix / "bin" / "genba"
    assert "0.1.0" in run(*no_network, genba, "--version").stdout
    run(*no_network, genba, "check", prefix / "share" / "genba" / "examples" / "demo.yaml")
    installed = run(*no_network, prefix / "bin" / "python", "-c", "import gateway; print(gateway.__file__)").stdout
    assert Path(installed.strip()).is_relative_to(prefix)


def test_a_damaged_file_is_refused(unpacked: Path, run: Run, tmp_path: Path) -> None:
    wheel = next(unpacked.glob("wheelhouse/genba-*.whl"))
    swap(wheel, wheel.read_bytes()[:-1] + b"x")
    said = run(unpacked / "install.sh", "--python", sys.executable, "--prefix", tmp_path / "opt", status=2)
    assert "damaged" in said.stderr
    assert not (tmp_path / "opt").exists()


def test_a_wheel_that_was_swapped_together_with_its_sum_is_refused(unpacked: Path, run: Run, tmp_path: Path) -> None:
    wheel = next(unpacked.glob("wheelhouse/click-*.whl"))
    before = hashlib.sha256(wheel.read_bytes()).hexdigest()
    swap(wheel, wheel.read_bytes() + b"x")
    sums = unpacked / "SHA256SUMS"
    swap(sums, sums.read_bytes().replace(before.encode(), hashlib.sha256(wheel.read_bytes()).hexdigest().encode()))
    said = run(unpacked / "install.sh", "--python", sys.executable, "--prefix", tmp_path / "opt", status=None)
    assert said.returncode != 0
    assert "DO NOT MATCH" in said.stderr


def test_another_platform_is_refused_by_name(unpacked: Path, run: Run, tmp_path: Path) -> None:
    swap(unpacked / "PLATFORM", b"linux-riscv64-py3.11\n")
    said = run(unpacked / "install.sh", "--python", sys.executable, "--prefix", tmp_path / "opt", status=2)
    assert "this bundle is for linux-riscv64-py3.11" in said.stderr


def test_the_unit_names_what_the_installer_makes(unpacked: Path) -> None:
    unit = (unpacked / "genba.service").read_text()
    assert "ExecStartPre=/opt/genba/bin/genba check /var/lib/genba/plant.yaml" in unit
    assert "User=genba" in unit
    assert "prefix=/opt/genba" in (unpacked / "install.sh").read_text()
