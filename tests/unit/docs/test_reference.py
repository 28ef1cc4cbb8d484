"""The reference pages have everything that the code has, and nothing that it has not."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from ostler_common.reasons import explanations
from ostler_control.cli.main import root
from ostler_control.settings.registry import SETTINGS

from docs.site import api_page, cli_page, reason_page, reasons

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


def test_every_reason_is_explained_and_no_explanation_is_of_a_reason_that_is_gone() -> None:
    found = set(reasons.found())
    assert len(found) > 600
    assert found - set(explanations()) == set(), "explain these in common/ostler_common/reasons.toml"
    assert set(explanations()) - found == set(), "the code has none of these any more"


def test_explanations_are_sentences_in_the_order_of_the_alphabet() -> None:
    assert list(explanations()) == sorted(explanations())
    for reason, explanation in explanations().items():
        for text in (explanation.means, explanation.remedy):
            assert re.fullmatch(r"([A-Z`]|libvirt|ovftool|vCenter|virt-v2v|vSphere).{6,250}[.]", text), (
                f"{reason}: {text}"
            )
        for page in re.findall(r"\]\(([^)#]+)", explanation.means + explanation.remedy):
            assert (ROOT / "docs" / page).is_file(), f"{reason} links to {page}"


def test_settings_that_an_explanation_names_are_there() -> None:
    for reason, explanation in explanations().items():
        for name in re.findall(r"`([a-z]+(?:\.[a-z]+)+)`", explanation.means + explanation.remedy):
            assert name in SETTINGS, f"{reason} names the setting {name}"


def test_the_page_of_reasons_has_every_explanation() -> None:
    page = reason_page.page()
    for reason in explanations():
        assert f"\n### {reason}\n" in page


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('raise NotFoundError(f"there is no VM {vm.name}", "VM_NOT_FOUND")', ("NOT_FOUND", "there is no VM VM_NAME")),
        ('bad_field("name", "is too long", "INVALID_NAME")', ("INVALID_ARGUMENT", "is too long")),
        ('raise errors.AbortedError("a" f"b {len(disks)} c", reason="GONE_NOW")', ("ABORTED", "ab DISKS c")),
        ('_refused("the disk is a device", "DISK_TYPE")', ("", "the disk is a device")),
        ('x = (("Login", FailedPreconditionError, "LOGIN_FAILED", "a b"),)', ("FAILED_PRECONDITION", "a b")),
        ('found[vm] = ("SKIPPED", "its owner keeps it")', ("", "its owner keeps it")),
        ('class Reason(StrEnum):\n    KEY_UNKNOWN = "KEY_UNKNOWN"', ("", "")),
        ('resolve(DiskOffering, ref, "offering")', ("NOT_FOUND", "")),
        ('deadline(job, timeout_s, "copy")', ("DEADLINE_EXCEEDED", "")),
    ],
)
def test_reasons_are_read_from_the_code(source: str, expected: tuple[str, str]) -> None:
    found = {(kind, message) for _, kind, message in reasons.in_source(source)}
    assert expected in found


def test_what_is_no_reason_is_not_read_as_one() -> None:
    source = 'from x import LIMIT_S\n__all__ = ["LIMIT_S"]\nos.environ["LC_ALL"]\ndeadline(job, timeout_s, what)\n'
    assert list(reasons.in_source(source)) == []
