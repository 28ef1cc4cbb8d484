"""What becomes of each pair of formats: the page docs/user-data.md holds this table, made by the merge itself.

`make userdata-table` writes it anew.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from ostler_control.userdata import documents, mime
from ostler_control.userdata.formats import Format
from ostler_control.userdata.merging import Policy, combine
from ostler_control.userdata.packing import DEFAULT_MAX_LENGTH_BYTES

BEGIN, END = "<!-- merge table: begin -->\n", "<!-- merge table: end -->\n"

# One small document of each format.
SAMPLES = {
    Format.CLOUD_CONFIG: b"#cloud-config\nruncmd:\n  - touch /run/{who}\n",
    Format.SCRIPT: b"#!/bin/sh\ntouch /run/{who}\n",
    Format.BOOTHOOK: b"#cloud-boothook\n#!/bin/sh\ntouch /run/{who}\n",
    Format.INCLUDE: b"#include\nhttps://example.com/{who}\n",
    Format.JINJA: b"## template: jinja\n#cloud-config\nruncmd:\n  - touch /run/{{ v1.instance_id }}-{who}\n",
    Format.ARCHIVE: (
        b"#cloud-config-archive\n- type: text/x-shellscript\n  content: |\n    #!/bin/sh\n    touch /run/{who}\n"
    ),
    Format.PART_HANDLER: b"#part-handler\ndef list_types():\n    return ['text/x-{who}']\n",
    Format.MULTIPART: (
        b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="b"\n\n'
        b"--b\nContent-Type: text/x-shellscript\n\n#!/bin/sh\ntouch /run/{who}\n"
        b"--b\nContent-Type: text/cloud-config\n\n#cloud-config\nruncmd:\n  - touch /run/{who}-too\n\n--b--\n"
    ),
}


def sample(known: Format, who: str, gzipped: bool = False) -> bytes:
    """A document of this format that carries a name, so that two of one format differ."""
    content = SAMPLES[known].replace(b"{who}", who.encode())
    return gzip.compress(content, mtime=0) if gzipped else content


def outcome(template: Format, own: Format) -> str:
    """The parts that the guest gets, in order, when a template's document and a VM's are appended."""
    first = documents.read(sample(template, "template"), "the template's", DEFAULT_MAX_LENGTH_BYTES)
    second = documents.read(sample(own, "vm"), "the VM's", DEFAULT_MAX_LENGTH_BYTES)
    merged = mime.read(combine(first, second, Policy.APPEND, DEFAULT_MAX_LENGTH_BYTES), "the merged")
    return ", ".join(
        f"{part.format}{'+' if any(name == 'Merge-Type' for name, _ in part.headers) else ''}" for part in merged
    )


def table() -> str:
    """The merge table, in Markdown."""
    lines = ["| template, then VM | " + " | ".join(SAMPLES) + " |", "| --- " * (len(SAMPLES) + 1) + "|"]
    for template in SAMPLES:
        lines.append(f"| **{template}** | " + " | ".join(outcome(template, own) for own in SAMPLES) + " |")
    return "\n".join(lines) + "\n"


def page_with_table(page: str) -> str:
    """The page with its table made anew."""
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


def write(path: str) -> None:
    """Writes the table into a page."""
    page = Path(path)
    page.write_text(page_with_table(page.read_text()))
