"""The shell blocks of docs/first-host.md, each with where its first line says it is run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.lab.host import REPOSITORY

PAGE = REPOSITORY / "docs/first-host.md"
# Blocks that the test does not run, by the words after "# on ...", and why.
NOT_RUN = {
    "the control plane, with an NFS server": "the machines of the test have no NFS server",
    "the control plane, at a terminal": "the console has a test of its own, with a terminal",
    "each machine, instead of the packages": "the packages are what is tested",
}


@dataclass(frozen=True)
class Block:
    """section: the heading's number; where: "the control plane", "the host", and what else the first line says."""

    section: str
    where: str
    script: str


def blocks() -> list[Block]:
    """All shell blocks of the page, in order. Raises ValueError for one that does not say where it is run."""
    found = []
    section = ""
    for heading, script in re.findall(r"^## ([^\n]*)$|^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if heading:
            section = heading.partition(".")[0]
            continue
        first, _, rest = script.partition("\n")
        if not first.startswith("# on "):
            raise ValueError(f"{PAGE}: a block begins with {first!r}, not with where it is run")
        found.append(Block(section, first.removeprefix("# on "), rest))
    return found
