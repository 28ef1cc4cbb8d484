"""docs/benchmarks.md, of which each measurement writes its own section."""

from __future__ import annotations

import os
import platform
import subprocess

from tests.lab.host import REPOSITORY

PAGE = REPOSITORY / "docs" / "benchmarks.md"


def machine() -> str:
    qemu = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    return f"{os.cpu_count()} CPUs, Linux {platform.release()}, QEMU {qemu}"


def replace(heading: str, text: str) -> None:
    """Writes one section of the page, all others stay. heading: a line with "## ", or "" for what is before all."""
    PAGE.write_text(replaced(PAGE.read_text(), heading, text))


def replaced(page: str, heading: str, text: str) -> str:
    """The page with another section under the heading; one that is new comes after what is before all headings."""
    head, *rest = page.split("\n## ")
    sections = {f"## {title}": f"\n{body}" for title, _, body in (part.partition("\n") for part in rest)}
    if not heading:
        head = text
    elif heading in sections:
        sections[heading] = f"\n{text}\n"
    else:
        sections = {heading: f"\n{text}\n", **sections}
    parts = [head.rstrip("\n"), *(f"{title}\n\n{body.strip(chr(10))}" for title, body in sections.items())]
    return "\n\n".join(parts) + "\n"
