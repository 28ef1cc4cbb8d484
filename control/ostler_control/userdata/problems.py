"""What is wrong with user data: every error names the document, and the line where there is one."""

from __future__ import annotations

from ostler_common.errors import InvalidArgumentError


def problem(document: str, what: str, reason: str, line: int = 0) -> InvalidArgumentError:
    """The error about a document. what: never holds the document's content, which may be secret.

    line: from 1, within the part that `document` names; 0: the document as a whole.
    """
    where = f"{document}, line {line}" if line else document
    metadata = {"document": document, **({"line": str(line)} if line else {})}
    return InvalidArgumentError(f"{where}: {what}", reason, metadata)


def line_of(content: bytes, offset: int) -> int:
    """The line that holds the byte at offset, from 1."""
    return content.count(b"\n", 0, offset) + 1
