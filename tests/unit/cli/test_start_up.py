"""`ostler --help` must come at once."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from importlib import import_module

import click
import pytest
from ostler_control.cli.main import COMMANDS, root

HEAVY = ("grpc", "google.protobuf", "rich", "yaml", "cryptography", "peewee", "numpy")
HELP = f"""
import sys
from ostler_control.cli.main import root
try:
    root(["--help"], prog_name="ostler")
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert "Virtual machines" in done.stdout
    assert done.stderr.strip() == "[]"


def test_help_is_fast() -> None:
    """By the time on a CPU, for how long it waits for one depends on what else runs."""
    times = []
    for _ in range(3):
        begin = children_cpu_s()
        subprocess.run([sys.executable, "-c", HELP], capture_output=True, check=True, env=ENVIRONMENT)
        times.append(children_cpu_s() - begin)
    assert min(times) < 0.6  # 0.1 s when nothing else runs


def children_cpu_s() -> float:
    """What the children that have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("noun", COMMANDS)
def test_line_of_root_help_is_the_command_s_own(noun: str) -> None:
    command = import_module(f"ostler_control.cli.commands.{noun}").command
    assert COMMANDS[noun] == command.help.splitlines()[0]


def verbs() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []

    def walk(path: str, command: click.Command) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                walk(f"{path} {name}", below)
        else:
            found.append((path, command))

    walk("ostler", root)
    return found


@pytest.mark.parametrize(("path", "command"), verbs(), ids=[path for path, _ in verbs()])
def test_every_verb_explains_itself(path: str, command: click.Command) -> None:
    assert command.help is not None
    assert f"  {path}" in command.help, "an example"
    assert not command.get_short_help_str(80 - 6 - len("screenshot")).endswith("..."), "fits in the list of verbs"
    for option in command.params:
        assert isinstance(option, click.Argument) or (isinstance(option, click.Option) and option.help)


def test_examples_parse() -> None:
    """The options that the examples use exist."""
    for path, command in verbs():
        lines = [line.strip() for line in (command.help or "").splitlines()]
        for line in (line for line in lines if line.startswith(path)):
            words = [word for word in line.split("#")[0].split() if word.startswith("--")]
            known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            assert set(words) <= known, line
