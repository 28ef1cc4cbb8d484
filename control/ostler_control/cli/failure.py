"""Errors as the user sees them: what happened, what is wrong with which field, what to try, and the exit code."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import IO, Any

import click
from ostler_common.errors import OstlerError, UnavailableError, Violation
from ostler_common.text import printable

from ostler_control.cli.app import App
from ostler_control.cli.exits import Exit, exit_of

# The next command to try, by the error's reason.
_HINTS = {
    "SOURCE_VM_NOT_FOUND": "`ostler import list-vms SOURCE`",
    "NO_FEASIBLE_HOST": "`ostler host list` shows what is free; `ostler vm hosts NAME` explains each host",
    "NO_FEASIBLE_POOL": "`ostler pool list` shows free space, and which pools hold encrypted volumes",
    "CONSOLE_BUSY": "the option --force takes it over",
    "BAD_CERTIFICATE": "have an admin run `ostler user renew NAME`",
}


class Failure(click.ClickException):
    """A call or an operation failed."""

    def __init__(self, error: OstlerError, app: App) -> None:
        super().__init__(error.message)
        self.error = error
        self.app = app

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click's is a plain attribute
        return exit_of(self.error.code, self.error.reason)

    def show(self, file: IO[Any] | None = None) -> None:
        for line in lines(self.error, self.app):
            click.echo(printable(line), file=file or sys.stderr)


class Interrupted(click.ClickException):
    """The user pressed Ctrl-C, or said no."""

    exit_code = Exit.INTERRUPTED

    def __init__(self) -> None:
        super().__init__("interrupted")

    def show(self, file: IO[Any] | None = None) -> None:
        """Says nothing: the user knows."""


def lines(error: OstlerError, app: App) -> list[str]:
    """The message as lines."""
    out: list[str]
    if isinstance(error, UnavailableError) and error.reason == "RPC":
        out = _unreachable(error, app)
    else:
        out = [f"Error: {error.message} [{error.reason}]"]
    out += [f"  {v.field}: {v.description}" for v in error.violations if not _said(v, error.message)]
    out += [f"  {note}" for note in getattr(error, "__notes__", ())]
    hint = _hint(error.reason)
    if hint:
        out.append(f"  try: {hint}")
    return out


def _said(violation: Violation, message: str) -> bool:
    return violation.field in message and violation.description in message


def _hint(reason: str) -> str | None:
    from ostler_control.cli.main import COMMANDS

    if reason in _HINTS:
        return _HINTS[reason]
    noun = reason.removesuffix("_NOT_FOUND").lower().split("_")[-1]  # the offering of DISK_OFFERING_NOT_FOUND
    if reason.endswith("_NOT_FOUND") and noun in COMMANDS:
        return f"`ostler {noun} list`"
    return None


def _unreachable(error: OstlerError, app: App) -> list[str]:
    """Nobody answered, so the message is gRPC's own; what helps is where we tried and as whom."""
    profile = app.profile
    out = [
        f"Error: the control plane at {profile.control_address.replace(',', ', ')} does not answer [UNREACHABLE]",
        f"  profile: {profile.path}",
        f"  detail: {error.message}",
    ]
    from ostler_common.pki import expires

    end = expires(profile.certificate.read_bytes())
    if end < datetime.now(UTC):
        out.append(f"  your certificate ended {end:%Y-%m-%d %H:%M} UTC: have an admin run `ostler user renew NAME`,")
        out.append("  or `ostler-control user-certificate NAME` where the control plane runs")
    return out
