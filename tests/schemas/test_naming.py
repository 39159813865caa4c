from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.asset import segments
from schemas.naming import asset_path, slug, tag_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MotorTemp (°C)", "motor_temp_c"),
        ("PLCTags", "plc_tags"),
        ("Axis1.Torque", "axis1_torque"),
        ("speedRPM", "speed_rpm"),
        ("many.0", "many_0"),
        ("主モータ 温度", "主モータ_温度"),
        ("Lüfter-Drehzahl", "lüfter_drehzahl"),
        ("---", "tag"),
    ],
)
def test_names_of_tags(text: str, name: str) -> None:
    assert tag_name(text) == name


def test_an_asset_is_the_folders_in_kebab_case() -> None:
    assert asset_path("Plant A", "Robot_3") == "plant-a/robot-3"
    assert asset_path("Plant", "..", "R") == "plant/r"
    assert asset_path("...") is None
    assert tag_name("Line 2", "MotorTemp") == "line_2_motor_temp"


@given(st.text(max_size=200))
def test_a_name_gives_itself_and_is_a_part_of_a_path(text: str) -> None:
    made = slug(text)
    assert slug(made) == made
    assert segments(tag_name(text)) == (tag_name(text),)
