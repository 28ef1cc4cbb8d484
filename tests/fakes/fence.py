"""A fence agent in Debian's manner, whose device is a directory."""

from __future__ import annotations

from pathlib import Path

PASSWORD = b"s3cret of the bmc"
_PROGRAM = """#!/bin/sh
dir=${0%/*}
while IFS= read -r line; do
  case $line in
    action=*) action=${line#action=};;
    password=*) password=${line#password=};;
  esac
done
echo "$action" >> "$dir/calls"
tr '\\0' ' ' < /proc/$$/cmdline >> "$dir/arguments"
[ ! -e "$dir/slow" ] || sleep 30
[ ! -e "$dir/dead" ] || { echo "ERROR: no route to host" >&2; exit 1; }
[ "$password" = "$(cat "$dir/password")" ] || { echo "ERROR: login with $password failed" >&2; exit 1; }
case $action in
  status) [ "$(cat "$dir/power")" = off ] && { echo "Status: OFF"; exit 2; }; echo "Status: ON";;
  *) [ -e "$dir/stuck" ] || echo "$action" > "$dir/power"; echo "Success: Powered $action";;
esac
"""


class FakeDevice:
    """Keeps its host's power in a file. `fault`: dead, stuck (says that it switched, and did not) or slow."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        (directory / "password").write_bytes(PASSWORD)
        self.power = "on"
        program = directory / "fence_redfish"
        program.write_text(_PROGRAM)
        program.chmod(0o755)

    @property
    def power(self) -> str:
        return (self.directory / "power").read_text().strip()

    @power.setter
    def power(self, word: str) -> None:
        (self.directory / "power").write_text(word)

    def calls(self) -> list[str]:
        """The actions that it was told, in order."""
        path = self.directory / "calls"
        return path.read_text().split() if path.exists() else []

    def arguments(self) -> str:
        """The command lines that it was called with."""
        return (self.directory / "arguments").read_text()

    def fault(self, name: str, present: bool = True) -> None:
        if present:
            (self.directory / name).touch()
        else:
            (self.directory / name).unlink()
