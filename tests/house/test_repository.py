"""The repository keeps its own rules: no hosts of registries, no paths of one machine, no dead links, no large files, true READMEs."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = {"requirements/dev.txt", "requirements/runtime.txt", "tests/interop/package-lock.json"}
MAX_BYTES = 100_000

REGISTRY = re.compile(
    r"\b(?:p[y]pi|p[y]thonhosted|n[p]mjs|y[a]rnpkg|c[r]ates|g[o]lang|a[n]aconda)\.(?:org|com|io)\b(?!/project/)",
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(r"(?<![\w.$}/-])/(?:work|root|home/\w+)/\w")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


TRACKED = _tracked()
PAGES = [name for name in TRACKED if name.endswith(".md")]


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")


def _prose(name: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", _text(name), flags=re.DOTALL | re.MULTILINE)


def _code(name: str) -> str:
    """A page's code: each piece of it on lines of its own."""
    return "\n".join(
        re.findall(r"^```\w*\n(.*?)^```", _text(name), re.DOTALL | re.MULTILINE) + re.findall(r"`([^`\n]+)`", _prose(name))
    )


def _anchors(name: str) -> set[str]:
    """The anchors that a page's headings get where it is shown."""
    headings = re.findall(r"^#+ (.+)$", _prose(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("pattern", "caught", "passed"),
    [
        (REGISTRY, "https://registry." + "npmjs" + ".org/x", "npm ci"),
        (REGISTRY, "index-url = https://" + "pypi" + ".org/simple", "the index of Python packages"),
        (MACHINE_PATH, "open('" + "/" + "root/x')", "acme/" + "root/press"),
        (MACHINE_PATH, "see " + "/" + "work/main", "framework/x"),
    ],
)
def test_the_patterns_catch_what_they_are_for(pattern: re.Pattern[str], caught: str, passed: str) -> None:
    assert pattern.search(caught)
    assert not pattern.search(passed)


def test_no_file_names_the_host_of_a_registry_or_a_path_of_one_machine() -> None:
    found = [
        f"{name}:{number}: {match[0]}"
        for name in TRACKED
        for number, line in enumerate(_text(name).splitlines(), 1)
        for pattern in (REGISTRY, MACHINE_PATH)
        if (match := pattern.search(line))
    ]
    assert found == []


def test_no_file_is_large() -> None:
    assert {name: size for name in TRACKED if (size := (ROOT / name).stat().st_size) > MAX_BYTES and name not in LOCKS} == {}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    broken = []
    for match in LINK.finditer(_prose(page)):
        target, _, anchor = (match[1] or match[2]).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        if not file.exists() or (anchor and anchor not in _anchors(str(file.resolve().relative_to(ROOT)))):
            broken.append(match[0])
    assert broken == []


def test_every_page_is_reached_from_the_index() -> None:
    reached, todo = set[str](), ["docs/index.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        for match in LINK.finditer(_prose(page)):
            target = (match[1] or match[2]).partition("#")[0]
            if target and not re.match(r"[a-z]+:", target):
                name = str(((ROOT / page).parent / target).resolve().relative_to(ROOT))
                todo += [name] if name in PAGES and name not in reached else []
    assert [page for page in PAGES if page.startswith("docs/") and page not in reached] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_is_named_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", _text("Makefile"), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)(?: *#.*| [A-Z]+=.*)?$", _code(page), re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_named_exists(page: str) -> None:
    commands = {
        name.removesuffix("/__init__.py").rpartition("/")[2].removesuffix(".py").split("_")[0]
        for name in TRACKED
        if re.fullmatch(r"gateway/cli/[a-z_]+(?:\.py|/__init__\.py)", name)
    }
    named = set(re.findall(r"^genba ([a-z]+)", _code(page), re.MULTILINE))
    assert named - commands == set()


def test_requirements_are_pinned_by_hash_and_agree() -> None:
    pins = {}
    for name in ("runtime", "dev"):
        entries = re.split(r"\n(?=\S)", _text(f"requirements/{name}.txt"))
        entries = [entry for entry in entries if not entry.startswith("#")]
        assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
        pins[name] = {tuple(entry.split(" \\")[0].split(" ;")[0].strip().split("==")) for entry in entries}
    assert pins["runtime"] - pins["dev"] == set()


def test_runtime_requirements_are_the_project_s_dependencies() -> None:
    project = tomllib.loads(_text("pyproject.toml"))["project"]
    listed = [line for line in _text("requirements/runtime.in").splitlines() if line and not line.startswith("#")]
    assert listed == project["dependencies"]


def test_the_licence_is_the_one_that_is_declared() -> None:
    text = _text("LICENSE")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert tomllib.loads(_text("pyproject.toml"))["project"]["license"] == "Apache-2.0"
