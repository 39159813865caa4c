"""References are resolved inside values only, and no secret ever reaches a message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.catalogue import Catalogue
from gateway.config import ConfigurationInvalid, load
from tests.gateway.config.rig import HEAD, LAKE, Examine, Examined

CANARY = "kanarienvogel-7731"
PLC = """\
adapters:
  press:
    kind: plc
    endpoint: {endpoint}
    login: {{username: genba, password: {password}}}
    pin: {pin}
    tags: {{a: {{address: 1, type: bool, label: {label}}}}}
"""


def plc(endpoint: str = "tcp://a", password: str = "x", pin: str = "y", label: str = "z") -> str:
    return HEAD + PLC.format(endpoint=endpoint, password=password, pin=pin, label=label) + LAKE


def reveals(found: Examined, secret: str) -> bool:
    printed = found.text + json.dumps([diagnostic.as_json() for diagnostic in found.diagnostics], ensure_ascii=False)
    return secret in printed or secret in repr(found.diagnostics) or secret in str(ConfigurationInvalid(found.diagnostics))


@pytest.mark.parametrize(
    ("written", "env", "read"),
    [
        ("${PW}", {"PW": "a b"}, "a b"),
        ("x${A}y${B}", {"A": "1", "B": "2"}, "x1y2"),
        ("${PW:-rest}", {}, "rest"),
        ("${PW:-rest}", {"PW": ""}, "rest"),
        ("${PW:-rest}", {"PW": "own"}, "own"),
        ("${PW:?set it}", {"PW": "own"}, "own"),
        ("${PW}", {"PW": ""}, ""),
        ("$${PW}", {"PW": "own"}, "${PW}"),
        ("$PW", {"PW": "own"}, "$PW"),
        ("${PW}", {"PW": "line 1\nline: {2}\n# 3"}, "line 1\nline: {2}\n# 3"),
        ("${PW}", {"PW": "${OTHER}"}, "${OTHER}"),
    ],
)
def test_references_in_texts(examined: Examine, written: str, env: Mapping[str, str], read: str) -> None:
    found = examined(plc(label=f'"{written}"'), env=env)
    assert found.whole.tags[0].label == read


def test_a_reference_may_stand_for_a_number(examined: Examine) -> None:
    text = plc().replace("kind: plc", 'kind: plc\n    unit_id: "${UNIT}"')
    assert examined(text, env={"UNIT": "7"}).whole.plant.adapters["press"].unit_id == 7  # type: ignore[attr-defined]
    assert examined(text, env={"UNIT": "seven"}).codes == ["E011"]


def test_a_secret_is_read_from_a_file_without_its_line_end(examined: Examine) -> None:
    found = examined(plc(password="{file: secrets/pw}"), {"secrets/pw": f"{CANARY}\r\n"})
    login = found.whole.plant.adapters["press"].login  # type: ignore[attr-defined]
    assert login.password.get_secret_value() == CANARY
    assert CANARY not in repr(found.whole)


def test_what_a_secret_file_cannot_be(examined: Examine) -> None:
    assert examined(plc(password="{file: nowhere}")).codes == ["W050"]
    assert examined(plc(password="{file: nowhere}"), strict_env=True).codes == ["E050"]
    assert examined(plc(password="{file: pw}"), {"pw": b"\xff\xfe"}).codes == ["W050"]
    assert examined(plc(label="{file: pw}"), {"pw": "x"}).codes == ["E011"]  # a label is no secret


def test_an_unquoted_number_as_a_password_keeps_its_zeros(examined: Examine) -> None:
    found = examined(plc(pin="0042"))
    assert found.codes == []
    assert found.whole.plant.adapters["press"].pin.get_secret_value() == "0042"  # type: ignore[attr-defined]


def test_missing_variables_stop_the_gateway_but_not_a_check(
    examined: Examine, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = plc(password='"${PW}"')
    found = examined(text)
    assert found.codes == ["W050"]
    assert found.configuration is not None
    with pytest.raises(ConfigurationInvalid, match="E050"):
        load(Path("plant.yaml"), env={}, catalogue=catalogue)
    assert load(Path("plant.yaml"), env={}, strict_env=False, catalogue=catalogue) == found.configuration
    monkeypatch.setenv("PW", "x")
    assert load(Path("plant.yaml"), catalogue=catalogue).diagnostics == ()


def test_a_variable_in_the_way_gives_no_configuration_and_no_error(examined: Examine) -> None:
    found = examined(plc(endpoint='"${PLC}"'))
    assert found.codes == ["W050"]
    assert found.configuration is None


@pytest.mark.parametrize("place", ["endpoint", "password", "pin", "label"])
def test_a_value_from_the_environment_is_not_repeated(examined: Examine, place: str) -> None:
    wrong = plc(**{place: '"${V}"'}).replace("type: bool", "type: boool").replace("kind: parquet", "kind: parkett")
    for value in (CANARY, f"tcp://{CANARY}@host", f"{CANARY}\nsecond line", f'{CANARY}"\\'):
        found = examined(wrong, env={"V": value})
        assert "E014" in found.codes
        assert not reveals(found, CANARY)


def test_a_message_of_a_plug_in_that_repeats_a_secret_is_masked(examined: Examine) -> None:
    found = examined(plc(endpoint='"${V}"'), env={"V": CANARY})
    assert "*** is no endpoint; write it like tcp://10.0.0.7:502" in found.text
    assert not reveals(found, CANARY)


def test_short_secrets_do_not_shred_messages(examined: Examine) -> None:
    found = examined(plc(endpoint='"${V}"'), env={"V": "e"})
    assert "*** is no endpoint; write it like tcp" in found.text


BLOCK = f"""\
enterprise: acme
site: osaka
gateway: gw-1
adapters:
  press:
    kind: plc
    endpoint: tcp://a
    login:
      username: genba
      password: {CANARY}
    tags:
      a: {{address: 1, type: bool}}
sinks:
  alerts: {{kind: mqtt, endpoint: mqtt://a, password: {CANARY}, topic: x}}
  lake: {{kind: parquet, location: ./lake}}
"""


SLIPS = {
    "removed": "",
    "colon": ":",
    "quote": '"',
    "tab": "\t",
    "brace": "{",
    "letter": "x",
    "line": "\n",
    "comment": "#",
    "blank": " ",
}


@pytest.mark.parametrize("insert", SLIPS.values(), ids=SLIPS)
def test_no_slip_of_a_finger_reveals_a_secret(examined: Examine, insert: str) -> None:
    """One character removed or put in anywhere outside of the secret itself."""
    inside = {i for start in (BLOCK.index(CANARY), BLOCK.rindex(CANARY)) for i in range(start, start + len(CANARY))}
    slips = [BLOCK[:i] + insert + BLOCK[i + (not insert) :] for i in range(len(BLOCK)) if i not in inside]
    leaks = [slip for slip in slips if reveals(examined(slip), CANARY)]
    assert leaks == []


@pytest.mark.parametrize(
    "text",
    [
        f"private_key: |\n  {CANARY}\n {CANARY}\n",
        f"password: *{CANARY}\n",
        f"password: !{CANARY}\n",
        f"token: {CANARY}: x\n",
        f"password: [{CANARY}\nsite: x\n",
        f'password: "{CANARY}\n  {CANARY}\nsite: x\n',
        f"{HEAD}sinks:\n  a: {{kind: mqtt, password: {{x: {CANARY}}}}}\n",
        f"{HEAD}sinks:\n  a: {{kind: none, password: {CANARY}}}\n",
        f"{HEAD}x-pw: &pw {CANARY}\nsinks:\n  a: {{kind: mqtt, password: *pw, topics: 1}}\n",
    ],
)  # fmt: skip
def test_a_secret_in_broken_yaml_is_not_shown(examined: Examine, text: str) -> None:
    found = examined(text)
    assert any(code.startswith("E") for code in found.codes)
    assert not reveals(found, CANARY)


def test_the_control_an_ordinary_line_is_shown(examined: Examine) -> None:
    assert reveals(examined(f"{HEAD}labell: {CANARY}\n"), CANARY)
