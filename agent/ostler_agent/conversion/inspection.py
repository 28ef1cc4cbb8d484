"""What is in a staging directory: images, descriptor, digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ostler_agent.conversion.images import SourceImage, image_names, inspect
from ostler_agent.conversion.ovf import Descriptor, read_descriptor, read_manifest
from ostler_agent.conversion.staging import check_name, check_staged, is_regular


@dataclass(frozen=True)
class Inspection:
    """images: by name; ovf: when there is exactly one; digests: SHA-256 that manifests claim, by file name."""

    images: tuple[SourceImage, ...]
    ovf: Descriptor | None
    digests: Mapping[str, str]


def inspect_all(directory: Path, names: Sequence[str] = ()) -> Inspection:
    """Inspects a staging directory; names: of the images to inspect, all that are whole when there are none.

    Raises InvalidArgumentError, NotFoundError (FILE_NOT_FOUND), and what `images.inspect` and `read_descriptor` raise.
    """
    for number, name in enumerate(names):
        check_name(name, f"images[{number}]")
        check_staged(directory, name)
    images = tuple(inspect(directory / name) for name in names or image_names(directory))
    descriptors = [path for path in directory.glob("*.ovf") if is_regular(path)]
    digests: dict[str, str] = {}
    for path in directory.glob("*.mf"):
        if is_regular(path):
            digests |= read_manifest(path)
    return Inspection(images, read_descriptor(descriptors[0]) if len(descriptors) == 1 else None, digests)
