"""The reference of the API, from the comments of the .proto files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import google.rpc
import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from grpc_tools import protoc

PROTOS = Path(__file__).parents[2] / "protos"
HEAD = """# API

The services of the control plane, their calls and messages, from the comments of the `.proto` files.
[api.md](../api.md) says how programs use them. Long-running calls answer with a `google.longrunning.Operation`.
"""
# Field numbers in descriptor.proto, which the paths of comments are made of.
_SERVICES, _METHODS, _MESSAGES, _ENUMS, _FIELDS, _NESTED, _NESTED_ENUMS, _VALUES = 6, 2, 4, 5, 2, 3, 4, 2
_KINDS = {
    FieldDescriptorProto.TYPE_DOUBLE: "double",
    FieldDescriptorProto.TYPE_INT64: "int64",
    FieldDescriptorProto.TYPE_UINT64: "uint64",
    FieldDescriptorProto.TYPE_INT32: "int32",
    FieldDescriptorProto.TYPE_UINT32: "uint32",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
}


def page() -> str:
    """Markdown: a chapter per file, its calls, then its messages."""
    parts = [HEAD]
    for file in described():
        parts += _chapter(file)
    return "\n".join(parts)


def described() -> list[FileDescriptorProto]:
    """The files of the API and of the types that it uses, with comments."""
    names = sorted(
        str(path.relative_to(PROTOS))
        for kind in ("control", "types")
        for path in (PROTOS / "ostler" / kind).rglob("*.proto")
    )
    google_protos = Path(next(iter(google.rpc.__path__))).parent
    with tempfile.TemporaryDirectory() as directory:
        # googleapis-common-protos ships this file under another name than its importers use.
        longrunning = Path(directory, "google", "longrunning", "operations.proto")
        longrunning.parent.mkdir(parents=True)
        longrunning.write_bytes((google_protos / "longrunning" / "operations_proto.proto").read_bytes())
        out = Path(directory, "set")
        includes = [PROTOS, Path(directory), Path(grpc_tools.__path__[0]) / "_proto", google_protos.parent]
        command = ["protoc", *(f"-I{path}" for path in includes), "--include_source_info", f"-o{out}", *names]
        if protoc.main(command) != 0:
            raise ValueError("protoc cannot read the .proto files")
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


class _Comments:
    """Comments of a file by the path of what they stand before."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._by_path = {
            tuple(location.path): " ".join(location.leading_comments.split())
            for location in file.source_code_info.location
        }

    def __getitem__(self, path: Sequence[int]) -> str:
        return self._by_path.get(tuple(path), "").replace("|", "\\|").replace("<", "&lt;")


def _chapter(file: FileDescriptorProto) -> Iterator[str]:
    comments = _Comments(file)
    yield f"## {file.name}\n"
    for number, service in enumerate(file.service):
        yield f"### {service.name}\n"
        yield comments[(_SERVICES, number)] + "\n"
        rows = [
            f"| `{method.name}` | {_call(method)} | {comments[(_SERVICES, number, _METHODS, index)]} |"
            for index, method in enumerate(service.method)
        ]
        yield "\n".join(["| call | request and answer | what it does |", "| --- | --- | --- |", *rows]) + "\n"
    for number, message in enumerate(file.message_type):
        yield from _message(message, (_MESSAGES, number), message.name, comments)
    for number, enum in enumerate(file.enum_type):
        yield from _enum(enum, (_ENUMS, number), enum.name, comments)


def _call(method: MethodDescriptorProto) -> str:
    request = f"{'stream ' if method.client_streaming else ''}`{_short(method.input_type)}`"
    return f"{request} → {'stream ' if method.server_streaming else ''}`{_short(method.output_type)}`"


def _message(message: DescriptorProto, path: tuple[int, ...], name: str, comments: _Comments) -> Iterator[str]:
    if message.options.map_entry:
        return
    yield f"### {name}\n"
    yield comments[path] + "\n"
    rows = [
        f"| `{field.name}` | {_type(field, message)} | {comments[(*path, _FIELDS, index)]} |"
        for index, field in enumerate(message.field)
    ]
    if rows:
        yield "\n".join(["| field | type | meaning |", "| --- | --- | --- |", *rows]) + "\n"
    for index, nested in enumerate(message.nested_type):
        yield from _message(nested, (*path, _NESTED, index), f"{name}.{nested.name}", comments)
    for index, enum in enumerate(message.enum_type):
        yield from _enum(enum, (*path, _NESTED_ENUMS, index), f"{name}.{enum.name}", comments)


def _enum(enum: EnumDescriptorProto, path: tuple[int, ...], name: str, comments: _Comments) -> Iterator[str]:
    yield f"### {name}\n"
    yield comments[path] + "\n"
    rows = [f"| `{value.name}` | {comments[(*path, _VALUES, index)]} |" for index, value in enumerate(enum.value)]
    yield "\n".join(["| value | meaning |", "| --- | --- |", *rows]) + "\n"


def _type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    entry = next(
        (n for n in message.nested_type if n.options.map_entry and field.type_name.endswith(f".{n.name}")), None
    )
    if entry is not None:
        key, value = entry.field
        return f"map of `{_plain(key)}` to `{_plain(value)}`"
    repeated = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    return f"{repeated}`{_plain(field)}`"


def _plain(field: FieldDescriptorProto) -> str:
    return _short(field.type_name) if field.type_name else _KINDS[field.type]


def _short(name: str) -> str:
    """`.ostler.control.v1.Vm.State` as `Vm.State`; names of others in full."""
    for package in (".ostler.control.v1.", ".ostler.types.v1."):
        if name.startswith(package):
            return name.removeprefix(package)
    return name.removeprefix(".")
