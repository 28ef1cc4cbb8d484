"""How `ostler setting` and `ostler vm extraconfig` show what they are told, and what they send."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from ostler.control.v1 import extra_config_pb2
from ostler.control.v1 import setting_pb2 as pb
from ostler_control.cli.commands import setting
from ostler_control.cli.commands._vm_extraconfig import VIEW as EXTRA_CONFIGS
from ostler_control.cli.output import Listing, print_list, print_one
from ostler_control.cli.text_files import read_text

OWN = pb.Setting(
    name="vm.stop.timeout",
    value="120",
    default_value="60",
    type="integer",
    allowed="1 to 3600",
    unit="seconds",
    description="How long a guest gets.",
    origin=pb.Setting.CLUSTER,
    origin_id="c",
    origin_name="web",
    scopes=[pb.Setting.GLOBAL, pb.Setting.ZONE, pb.Setting.CLUSTER],
    dynamic=True,
    changed_by="admin",
)


def test_a_setting_is_shown_with_where_its_value_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    print_one(setting.VIEW, OWN, "table")
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "value 120",
        "from cluster web",
        "default 60",
        "type integer, 1 to 3600, seconds",
        "scopes global, zone, cluster",
        "in force at once yes",
        "changed by admin",
    ):
        assert words in shown


@pytest.mark.parametrize(
    ("origin", "name", "shown"),
    [
        (pb.Setting.DEFAULT, "", "default"),
        (pb.Setting.GLOBAL, "", "global"),
        (pb.Setting.ACCOUNT, "acme", "account acme"),
    ],
)
def test_every_origin_has_its_word(
    origin: pb.Setting.Scope.ValueType, name: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = pb.Setting(name="a", value="1", origin=origin, origin_name=name)
    print_list(setting.VIEW, [row], Listing("csv", columns=["from"]))
    assert capsys.readouterr().out.split("\n")[1].strip() == shown


def test_extra_configuration_is_listed_with_whether_it_passes(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        extra_config_pb2.ExtraConfig(name="a", passes=True),
        extra_config_pb2.ExtraConfig(name="b", refusal="EXTRA_CONFIG_NOT_ALLOWED", explanation="no devices/disk"),
        extra_config_pb2.ExtraConfig(name="c", passes=True, override_by="root"),
    ]
    print_list(EXTRA_CONFIGS, rows, Listing("csv", columns=["name", "check", "explanation"]))
    assert capsys.readouterr().out.split("\n")[1:4] == [
        "a,passes,",
        "b,EXTRA_CONFIG_NOT_ALLOWED,no devices/disk",
        "c,passes (override by root),",
    ]


def test_a_file_that_cannot_be_read_is_a_mistake_of_usage(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<pm/>")
    (tmp_path / "b.xml").write_bytes(b"\xff")
    assert read_text(tmp_path / "a.xml") == "<pm/>"
    for name, words in (("b.xml", "not text in UTF-8"), ("c.xml", "No such file")):
        with pytest.raises(click.UsageError, match=words):
            read_text(tmp_path / name)


def test_get_and_show_are_one_verb() -> None:
    context = click.Context(setting.command)
    assert setting.command.get_command(context, "show") is setting.command.commands["get"]
