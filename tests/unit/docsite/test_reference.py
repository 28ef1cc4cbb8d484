"""The reference pages have everything that the code has, and nothing that it has not."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from ostler_control.cli.main import root

from docsite import api_page, cli_page, reason_page, reasons

ROOT = Path(__file__).parents[3]


def test_every_command_has_its_section_and_every_option_its_row() -> None:
    page = cli_page.page()
    context = click.Context(root, info_name="ostler")
    count = 0
    for noun in root.list_commands(context):
        command = root.get_command(context, noun)
        assert command is not None
        for verb, its_context in cli_page.verbs(command, click.Context(command, info_name=noun, parent=context)):
            _, _, section = page.partition(f" {its_context.command_path}\n\n```text\n")
            section = re.split(r"^##", section, maxsplit=1, flags=re.M)[0]
            assert section, its_context.command_path
            for option in verb.params:
                if isinstance(option, click.Option) and not option.hidden:
                    assert max(option.opts, key=len) in section, f"{its_context.command_path} {option.opts}"
            count += 1
    assert count > 100


def test_every_call_message_and_field_is_explained() -> None:
    page = api_page.page()
    calls = 0
    for path in sorted((ROOT / "protos/ostler/control/v1").glob("*.proto")):
        text = path.read_text()
        for name in re.findall(r"^ *rpc (\w+)\(", text, re.M):
            assert re.search(rf"^\| `{name}` \| .+ → .+ \| .+ \|$", page, re.M), name
            calls += 1
        for name in re.findall(r"^message (\w+) ", text, re.M):
            assert f"\n### {name}\n" in page
    assert calls > 100
    assert not re.search(r"^\| `\w+` \| .+ \|  \|$", page, re.M), "a field without a comment"


def test_every_reason_has_a_message_and_what_to_do() -> None:
    found = reasons.found()
    assert len(found) > 400
    _, _, page = reason_page.page().partition("\n## Reasons\n")
    for name in found:
        [row] = re.findall(rf"^\| `{name}` \|.*$", page, re.M)
        assert row.rstrip("| ").split("|")[-1].strip(), name


def test_no_remedy_is_for_a_reason_that_is_gone() -> None:
    assert set(reason_page.remedies()) <= set(reasons.found())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('raise NotFoundError(f"there is no VM {vm.name}", "VM_NOT_FOUND")', ("NOT_FOUND", "there is no VM VM_NAME")),
        ('bad_field("name", "is too long", "INVALID_NAME")', ("INVALID_ARGUMENT", "is too long")),
        ('raise errors.AbortedError("a" f"b {len(disks)} c", reason="GONE_NOW")', ("ABORTED", "ab DISKS c")),
        ('_refused("the disk is a device", "DISK_TYPE")', ("", "the disk is a device")),
    ],
)
def test_reasons_are_read_from_the_code(source: str, expected: tuple[str, str]) -> None:
    [(_, kind, message)] = reasons.in_source(source)
    assert (kind, message) == expected
