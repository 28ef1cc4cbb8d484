"""The descriptor and the manifest of an OVF export. The descriptor is read here and understood by the control plane."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import FailedPreconditionError

MAX_DESCRIPTOR_BYTES = 2 << 20
MAX_MANIFEST_BYTES = 1 << 20
_DIGEST = re.compile(r"SHA256\((?P<name>[^)]{1,200})\)= ?(?P<digest>[0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Descriptor:
    """An OVF descriptor as it is in its file, unchecked."""

    name: str
    xml: bytes


def read_descriptor(path: Path) -> Descriptor:
    """Raises FailedPreconditionError (OVF_TOO_LARGE)."""
    with path.open("rb") as file:
        xml = file.read(MAX_DESCRIPTOR_BYTES + 1)
    if len(xml) > MAX_DESCRIPTOR_BYTES:
        raise FailedPreconditionError(
            f"{path.name} is larger than {MAX_DESCRIPTOR_BYTES} bytes", "OVF_TOO_LARGE", {"file": path.name}
        )
    return Descriptor(path.name, xml)


def read_manifest(path: Path) -> Mapping[str, str]:
    """The SHA-256 digests that a manifest claims, by file name; lines with other digests are passed over."""
    with path.open("rb") as file:
        text = file.read(MAX_MANIFEST_BYTES).decode(errors="replace")
    return {found["name"]: found["digest"].lower() for found in _DIGEST.finditer(text)}
