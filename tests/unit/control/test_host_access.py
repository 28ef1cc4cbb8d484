"""The table of what is harmless in a domain, against libvirt's own schema: no place for a file's name is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from ostler_common.xml_fragment import Node
from ostler_control.extraconfig.host_access import find_host_access

SCHEMAS = Path("/usr/share/libvirt/schemas")
NS = "{http://relaxng.org/ns/structure/1.0}"
FILES = {"filePath", "dirPath", "absFilePath", "absDirPath", "deviceName", "unixSocketSource"}
MAX_DEPTH = 8  # of elements; sources of disks may hold sources without end


def definitions(file: str) -> dict[str, list[Element]]:
    """What a schema defines, and those that it includes."""
    root = ElementTree.parse(SCHEMAS / file).getroot()
    found: dict[str, list[Element]] = {}
    for item in root.iter(f"{NS}define"):
        found.setdefault(item.get("name", ""), []).append(item)
    for include in root.iter(f"{NS}include"):
        for name, items in definitions(include.get("href", "")).items():
            found.setdefault(name, []).extend(items)
    return found


DEFINITIONS = definitions("domain.rng") if SCHEMAS.is_dir() else {}


def places(item: Element, path: tuple[str, ...], attribute: str, refs: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Where the schema has a file's name: the element's path, and the attribute ("" for its text)."""
    if item.tag == f"{NS}element" and item.get("name"):
        if len(path) == MAX_DEPTH:
            return
        path, refs = (*path, item.get("name", "")), ()
    elif item.tag == f"{NS}attribute":
        attribute = item.get("name", "")
    elif item.tag == f"{NS}ref":
        name = item.get("name", "")
        if name in FILES:
            yield "/".join(path[1:]), attribute
        if name not in refs:
            for definition in DEFINITIONS.get(name, ()):
                yield from places(definition, path, attribute, (*refs, name))
        return
    for child in item:
        yield from places(child, path, attribute, refs)


def test_whatever_libvirt_takes_for_the_name_of_a_file_reaches_the_host() -> None:
    if not SCHEMAS.is_dir():
        pytest.skip("libvirt's schemas are not installed here")
    (domain,) = DEFINITIONS["domain"]
    found = set(places(domain, (), "", ()))
    # The schema is read as it should be: these are in it.
    assert {
        ("os/loader", ""),
        ("os/nvram", "template"),
        ("devices/emulator", ""),
        ("devices/disk/source", "file"),
        ("devices/rng/backend", ""),
        ("devices/video/model/acceleration", "rendernode"),
        ("devices/input/source", "evdev"),
        ("devices/interface/script", "path"),
    } <= found
    harmless = []
    for place, attribute in sorted(found):
        path = tuple(place.split("/"))
        node = Node(path[-1], {attribute: "/etc/shadow"}) if attribute else Node(path[-1], text="/etc/shadow")
        if not find_host_access(path, node):
            harmless.append((place, attribute))
    assert harmless == []


def test_what_nobody_has_thought_about_reaches_the_host() -> None:
    for path in ("novelty", "devices/novelty", "devices/video/novelty", "devices/video/model/novelty", "os/novelty"):
        parts = tuple(path.split("/"))
        assert find_host_access(parts, Node(parts[-1]))
    assert find_host_access(("devices", "video"), Node("video", {"novelty": "x"}))
