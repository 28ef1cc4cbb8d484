"""Text that others chose (hosts, vCenters, members) cannot steer the terminal of who reads it, in any format."""

from __future__ import annotations

import csv
import io
import json

import pytest
import yaml
from ostler_common.text import printable
from ostler_control.cli.documents import to_json, to_yaml
from ostler_control.cli.output import FORMATS, Listing, View, print_list, print_one

# An escape sequence by ESC and by C1's CSI, a bidirectional override and isolate, an invisible separator, a bell,
# a tag beyond the first plane, a carriage return, a next-line.
HOSTILE = "a\x1b[31m\x9b32mb\u202ec\u2066d\u200be\x07f\U000e0041g\rh\x85i"
SPEAKING = "Größe 大きさ 🖥 naïve"


class Thing:
    name = HOSTILE


VIEW: View[Thing] = View(
    "thing", [("name", lambda thing: thing.name)], plain=lambda thing: {HOSTILE: [thing.name, 1, None]}
)


@pytest.mark.parametrize("output", FORMATS)
def test_every_format_is_free_of_control_characters(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_list(VIEW, [Thing()], Listing(output))
    print_one(VIEW, Thing(), output)
    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable(), ascii(shown)
    assert "\\x1b[31m" in shown or "\\u001b[31m" in shown or "\\e[31m" in shown


def test_programs_read_the_same_data() -> None:
    for text in (
        HOSTILE,
        SPEAKING,
        "line 1\nline\u20282",
        "'quoted' \"twice\" \\",
        "- no list",
        "null",
        "\x85",
        "\ud83d",
    ):
        data = {"key": [text, {text: text}], "number": 1.5, "none": None}
        assert json.loads(to_json(data)) == data
        if text != "\ud83d":
            assert yaml.safe_load(to_yaml(data)) == data
    assert "大きさ" in to_json(SPEAKING)
    assert "大きさ" in to_yaml(SPEAKING)


def test_a_cell_of_csv_stays_one_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_list(VIEW, [Thing()], Listing("csv"))
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [["name"], [printable(HOSTILE)]]
