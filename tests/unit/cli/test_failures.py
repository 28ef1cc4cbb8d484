"""Errors and exit codes: one clear message, on standard error, and the next thing to try."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from ostler.client import profile as profiles
from ostler_common import errors
from ostler_common.identity import Identity, Kind
from ostler_control.cli.exits import Exit
from ostler_control.cli.main import root

from tests.fakes.certificates import ThrowawayCa
from tests.fakes.control import Control
from tests.unit.cli.conftest import Ostler


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InvalidArgumentError, 2),
        (errors.NotFoundError, 3),
        (errors.PermissionDeniedError, 4),
        (errors.UnauthenticatedError, 4),
        (errors.AlreadyExistsError, 6),
        (errors.FailedPreconditionError, 6),
        (errors.ResourceExhaustedError, 7),
        (errors.InternalError, 1),
    ],
)
def test_exit_codes(control: Control, ostler: Ostler, kind: type[errors.OstlerError], code: int) -> None:
    control.error = kind("it went wrong", "WENT_WRONG")
    result = ostler("vm", "show", "web-1")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == "Error: it went wrong [WENT_WRONG]\n"


def test_no_host_fits_is_no_capacity_whatever_its_code(control: Control, ostler: Ostler) -> None:
    control.error = errors.FailedPreconditionError("no host fits web-1: 2 lack memory", "NO_FEASIBLE_HOST")
    result = ostler("vm", "show", "web-1")
    assert result.exit_code == 7
    assert "ostler vm hosts" in result.stderr


def test_exit_codes_are_documented() -> None:
    text = Path(__file__).parents[3].joinpath("docs", "cli.md").read_text()
    for code in Exit:
        assert f"| {code.value} |" in text


def test_missing_object_says_where_to_look(control: Control, ostler: Ostler) -> None:
    result = ostler("vm", "show", "db-1")
    assert result.exit_code == 3
    assert result.stderr == "Error: there is no VM db-1 [VM_NOT_FOUND]\n  try: `ostler vm list`\n"


def test_bad_fields_are_named(control: Control, ostler: Ostler) -> None:
    violations = (errors.Violation("root_size_bytes", "is smaller than the template"),)
    control.error = errors.InvalidArgumentError("the request is wrong", "INVALID", {}, violations)
    assert "  root_size_bytes: is smaller than the template\n" in ostler("vm", "show", "web-1").stderr
    control.error = errors.bad_field("name", "is too long")
    assert ostler("vm", "show", "web-1").stderr == "Error: name: is too long [INVALID_FIELD]\n"


def test_unreachable_says_where_and_as_whom(tmp_path: Path) -> None:
    path = write_profile(tmp_path, timedelta(days=1))
    result = CliRunner().invoke(root, ["--profile", str(path), "vm", "list"], prog_name="ostler")
    assert result.exit_code == 5
    assert result.stderr.startswith("Error: the control plane at 127.0.0.1:1 does not answer [UNREACHABLE]\n")
    assert f"  profile: {path}\n" in result.stderr
    assert "certificate" not in result.stderr


def test_an_ended_certificate_is_pointed_out(tmp_path: Path) -> None:
    path = write_profile(tmp_path, timedelta(seconds=-1))
    result = CliRunner().invoke(root, ["--profile", str(path), "vm", "list"], prog_name="ostler")
    assert "have an admin run `ostler user renew NAME`" in result.stderr


def write_profile(directory: Path, lifetime: timedelta) -> Path:
    """A profile for an address where nobody listens."""
    files = ThrowawayCa(directory).issue(Identity(Kind.USER, "ada"), lifetime=timedelta(minutes=5) + lifetime)
    path = directory / "profile.toml"
    path.write_text(profiles.text("127.0.0.1:1", files.trust.name, files.certificate.name, files.key.name))
    return path


def test_without_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "absent.toml"
    result = CliRunner().invoke(root, ["vm", "list"], env={"OSTLER_PROFILE": str(path)}, prog_name="ostler")
    assert result.exit_code == 2
    assert f"there is no profile at {path}" in result.stderr
    assert "ostler-control init" in result.stderr


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("control_address = ", "cannot read the profile"),
        ('control_address = "a:1"\nca = "x"\nkey = "x"\n', "lacks `certificate`"),
        ('control_address = "a:1"\nca = "x"\ncertificate = "x"\nkey = "x"\n', "names"),
    ],
)
def test_bad_profiles(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(content)
    result = CliRunner().invoke(root, ["--profile", str(path), "vm", "list"], prog_name="ostler")
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_destruction_needs_yes_off_a_terminal(control: Control, ostler: Ostler) -> None:
    result = ostler("zone", "delete", "berlin")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert control.asked == []
    assert ostler("zone", "delete", "berlin", "--yes").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("vm", "show"),
        ("vm", "lst"),
        ("volume", "grow", "data-1", "bigger"),
        ("pool", "create", "p", "--type", "local", "--path", "/p"),
        ("pool", "create", "p", "--type", "local", "--path", "/p", "--host", "h1", "--zone", "z"),
        ("pool", "create", "p", "--type", "local", "--path", "/p", "--host", "h1", "--option", "soft"),
        ("host", "update", "h1"),
        ("cluster", "update", "web"),
        ("user", "create", "ada"),
        ("vm", "migrate", "web-1", "--pool", "fast"),
        ("vm", "create", "web-1", "--template", "t", "--offering", "o", "--nic", "br0,speed=1"),
        ("event", "list", "--vm", "a", "--host", "b"),
    ],
)
def test_wrong_usage(control: Control, ostler: Ostler, arguments: tuple[str, ...]) -> None:
    result = ostler(*arguments)
    assert (result.exit_code, control.asked) == (2, [])
    assert "Error: " in result.stderr
