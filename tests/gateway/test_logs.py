"""The log: text for people, JSON elsewhere, and never a reason to stop."""

from __future__ import annotations

import io
import json
import os

import structlog

from gateway import logs


def test_without_a_terminal_each_line_is_json_with_its_fields():
    out = io.StringIO()
    logs.configure(stream=out)
    structlog.get_logger().warning("device is not connected", adapter="press-07", error="°C?")
    line = json.loads(out.getvalue())
    assert (line["event"], line["adapter"], line["level"], line["error"]) == (
        "device is not connected",
        "press-07",
        "warning",
        "°C?",
    )
    assert line["timestamp"].endswith("Z")


def test_what_is_below_the_level_is_not_written():
    out = io.StringIO()
    logs.configure(stream=out, level="warning")
    structlog.get_logger().info("sink is connected")
    assert out.getvalue() == ""


def test_a_reader_that_went_away_does_not_stop_the_gateway(tmp_path):
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        logs.configure(stream=stream)
        structlog.get_logger().error("rows were rejected for good")
    structlog.get_logger().error("nobody reads this")
    assert "nobody reads this" not in (tmp_path / "log").read_text(encoding="utf-8")

    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as pipe:
        logs.configure(stream=io.TextIOWrapper(pipe, write_through=True))
        structlog.get_logger().error("nobody reads this either")


def test_the_level_changes_for_loggers_that_exist():
    out = io.StringIO()
    logs.configure(stream=out, level="warning")
    bound = structlog.get_logger().bind(sink="lake")
    bound.info("too little")
    logs.set_level("debug")
    assert logs.level() == "debug"
    bound.debug("enough")
    logs.set_level("error")
    bound.warning("too little")
    bound.exception("enough too")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["enough", "enough too"]
    logs.set_level("info")
