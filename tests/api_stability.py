"""`python -m tests.api_stability`: nothing of the recorded API was removed, renumbered or given another type. Part of
`make lint`.

protos/api.txt records the API, a line for each RPC, field and enum value, so that every change of it shows in a diff.
Additions are compatible and pass; `--update` records them. It refuses to record a break: who wants one deletes the
lines from protos/api.txt by hand.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import ostler.agent.v1
import ostler.control.v1
import ostler.types.v1
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
)

RECORD = Path(__file__).resolve().parent.parent / "protos" / "api.txt"
PACKAGES = (ostler.agent.v1, ostler.control.v1, ostler.types.v1)
Api = Mapping[str, str]


def present() -> list[FileDescriptorProto]:
    """The descriptors of the stubs that are built now."""
    files = []
    for package in PACKAGES:
        for module in pkgutil.iter_modules(package.__path__):
            if module.name.endswith("_pb2"):
                file = FileDescriptorProto()
                importlib.import_module(f"{package.__name__}.{module.name}").DESCRIPTOR.CopyToProto(file)
                files.append(file)
    return files


def api_of(files: Iterable[FileDescriptorProto]) -> dict[str, str]:
    """What clients rely on: the name of each RPC, field and enum value, and what it is."""
    return {name: what for file in files for name, what in _file(file)}


def _file(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for service in file.service:
        for method in service.method:
            yield f"rpc {file.package}.{service.name}.{method.name}", _method(method)
    for message in file.message_type:
        yield from _message(f"{file.package}.{message.name}", message)
    for enum in file.enum_type:
        yield from _enum(f"{file.package}.{enum.name}", enum)


def _method(method: MethodDescriptorProto) -> str:
    streams = ("stream " if method.client_streaming else "", "stream " if method.server_streaming else "")
    return f"({streams[0]}{method.input_type[1:]}) returns ({streams[1]}{method.output_type[1:]})"


def _message(name: str, message: DescriptorProto) -> Iterator[tuple[str, str]]:
    for field in message.field:
        yield f"field {name}.{field.name}", _field(message, field)
    for nested in message.nested_type:
        yield from _message(f"{name}.{nested.name}", nested)
    for enum in message.enum_type:
        yield from _enum(f"{name}.{enum.name}", enum)


def _field(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    type_name = field.type_name[1:] or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    repeated = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    presence = "optional " if field.proto3_optional else ""
    group = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") and not presence else ""
    return f"= {field.number} {repeated}{presence}{type_name}{f' in oneof {group}' if group else ''}"


def _enum(name: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, str]]:
    for value in enum.value:
        yield f"value {name}.{value.name}", f"= {value.number}"


def breaks(recorded: Api, current: Api) -> list[str]:
    """What callers of the recorded API would stumble over."""
    found = []
    for name, what in recorded.items():
        if name not in current:
            found.append(f"{name} was removed (it was {what})")
        elif current[name] != what:
            found.append(f"{name} was {what}, and is {current[name]}")
    return found


def parse(text: str) -> dict[str, str]:
    """The API that a record holds."""
    entries = (line.split(" ", 2) for line in text.splitlines() if line)
    return {f"{kind} {name}": what for kind, name, what in entries}


def render(api: Api) -> str:
    """The record of an API."""
    return "".join(f"{name} {what}\n" for name, what in sorted(api.items()))


def main(arguments: list[str]) -> int:
    current = api_of(present())
    recorded = parse(RECORD.read_text()) if RECORD.exists() else {}
    found = breaks(recorded, current)
    for line in found:
        print(f"the API breaks: {line}", file=sys.stderr)
    if found:
        print(
            "Keep the old name, number and type, and add a new one beside it. If the break is wanted,", file=sys.stderr
        )
        print("delete these lines from protos/api.txt, so that it shows in the diff.", file=sys.stderr)
        return 1
    added = len(current) - len(recorded)
    if "--update" in arguments:
        RECORD.write_text(render(current))
        print(f"protos/api.txt: {added} added")
    elif added:
        print(f"the API has {added} additions that protos/api.txt does not record yet (tests.api_stability --update)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
