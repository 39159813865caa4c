from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.address import Address, NodeAddress, PathAddress, parse


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ns=2;s=Line.Temp", NodeAddress(2, None, "Line.Temp")),
        ("i=2258", NodeAddress(0, None, 2258)),
        ("ns=0;i=85", NodeAddress(0, None, 85)),
        ('ns=3;s="DB_1"."temp;x=1"', NodeAddress(3, None, '"DB_1"."temp;x=1"')),
        ("nsu=http://acme.example/plant;i=7", NodeAddress(0, "http://acme.example/plant", 7)),
        ("ns=1;b=AP8=", NodeAddress(1, None, b"\x00\xff")),
        ("ns=1;g=09087e75-8e5e-499b-954f-f2a9603db28a", NodeAddress(1, None, uuid.UUID("09087e75-8e5e-499b-954f-f2a9603db28a"))),
        ("/Objects/2:Plant/2:Temp", PathAddress(((0, "Objects"), (2, "Plant"), (2, "Temp")))),
        ("/Objects/2:A&/B&:C&&D", PathAddress(((0, "Objects"), (2, "A/B:C&D")))),
        ("nsu=http://acme.example/a%3Bb%25;s=x", NodeAddress(0, "http://acme.example/a;b%", "x")),
        (
            "/Objects/nsu=http://acme.example/p;Plant/3:T",
            PathAddress(((0, "Objects"), ("http://acme.example/p", "Plant"), (3, "T"))),
        ),
        ("/Objects/nsu=urn:a%3Bb;A&/B", PathAddress(((0, "Objects"), ("urn:a;b", "A/B")))),
        ("/Objects/&nsu=x;y", PathAddress(((0, "Objects"), (0, "nsu=x;y")))),
    ],
)
def test_spellings(text: str, wanted: Address) -> None:
    assert parse(text) == wanted
    assert parse(str(wanted)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "", "Line.Temp", "ns=2;Line.Temp", "ns=x;s=a", "ns=2;s=", "ns=70000;s=a", "ns=2;i=-1", "ns=2;i=4294967296", "ns=2;i=x", "ns=2;i=²",
        "ns=2;g=nonsense", "ns=2;b=§", "/", "//", "/Objects/", "/Objects//2:A", "/Objects/2:", "/Objects/2:A&", "/x:y:z", "nsu=;s=a",
    ],
)  # fmt: skip
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"ns=|identifier"):
        parse(text)


names = st.text(min_size=1)
addresses = st.one_of(
    st.builds(
        NodeAddress,
        st.integers(0, 0xFFFF),
        st.none(),
        st.one_of(names, st.integers(0, 2**32 - 1), st.uuids(), st.binary(min_size=1)),
    ),
    st.builds(NodeAddress, st.just(0), st.text(min_size=1), names),
    st.builds(PathAddress, st.lists(st.tuples(st.one_of(st.integers(0, 0xFFFF), names), names), min_size=1).map(tuple)),
)


@given(addresses)
def test_the_canonical_spelling_reads_back(address: Address) -> None:
    assert parse(str(address)) == address


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse(text)
    except ValueError:
        return
    assert parse(str(address)) == address
