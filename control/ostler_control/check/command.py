"""`ostler-control check`: opens what it needs, and prints the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
from ostler_common.errors import FailedPreconditionError

from ostler_control import database
from ostler_control.agents import Agents
from ostler_control.check.findings import Finding, Report
from ostler_control.check.inspect import inspect
from ostler_control.cli.output import Listing, View, print_data, print_list
from ostler_control.config import ControlConfig
from ostler_control.keys import Keyring, open_provider

EXIT_FINDINGS, EXIT_UNCHECKED = 4, 5

_VIEW = View[Finding](
    "finding",
    columns=[
        ("severity", lambda f: f.severity),
        ("reason", lambda f: f.reason),
        ("object", lambda f: f.object),
        ("command", lambda f: f.command),
        ("message", lambda f: f.message),
    ],
    name=lambda f: f.object,
)


def open_database(config: ControlConfig) -> None:
    """Binds an existing database. Raises FailedPreconditionError NO_DATABASE, InvalidArgumentError."""
    file = config.database.removeprefix("sqlite:///")
    if file != config.database and not Path(file).exists():
        raise FailedPreconditionError(f"there is no database {file} (run `ostler-control init`)", "NO_DATABASE")
    database.connect(config.database)


def check_fleet(config: ControlConfig) -> Report:
    """Checks with the control plane's own certificate and keys. Raises OstlerError, OSError."""
    open_database(config)
    agents = Agents(config.state.client_tls())
    try:
        keys = Keyring(open_provider(config.state_dir, config.vault, config.key_provider))
        return inspect(agents, keys)
    finally:
        agents.close()
        database.disconnect()


def print_report(report: Report, output: str) -> None:
    """Findings on standard output; what was and was not checked on standard error, or all in the document."""
    if output == "json":
        findings = [{**dataclasses.asdict(finding), "severity": finding.severity} for finding in report.findings]
        print_data({"findings": findings, "unchecked": list(report.unchecked), "checked": report.checked}, "json")
        return
    print_list(_VIEW, report.findings, Listing("table"))
    for line in report.unchecked:
        click.echo(f"not checked: {line}", err=True)
    click.echo(f"checked: {report.checked}", err=True)
