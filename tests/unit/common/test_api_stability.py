"""What counts as a break of the API, and that the record of it is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from tests.api_stability import RECORD, api_of, breaks, parse, present, render


def vm_service() -> FileDescriptorProto:
    file = FileDescriptorProto(package="x.v1")
    message = file.message_type.add(name="Vm")
    message.oneof_decl.add(name="disk")
    message.field.add(name="name", number=1, type=FieldDescriptorProto.TYPE_STRING)
    message.field.add(name="pool", number=2, type=FieldDescriptorProto.TYPE_STRING, oneof_index=0)
    message.enum_type.add(name="State").value.add(name="RUNNING", number=1)
    file.service.add(name="Vms").method.add(name="Get", input_type=".x.v1.Vm", output_type=".x.v1.Vm")
    return file


def vm(file: FileDescriptorProto) -> DescriptorProto:
    return file.message_type[0]


def test_additions_are_no_break() -> None:
    later = vm_service()
    vm(later).field.add(name="size_bytes", number=3, type=FieldDescriptorProto.TYPE_INT64)
    vm(later).enum_type[0].value.add(name="STOPPED", number=2)
    later.service[0].method.add(name="List", input_type=".x.v1.Vm", output_type=".x.v1.Vm")
    later.message_type.add(name="Host")
    assert breaks(api_of([vm_service()]), api_of([later])) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda file: vm(file).field.pop(0), "field x.v1.Vm.name was removed (it was = 1 string)"),
        (lambda file: setattr(vm(file).field[0], "number", 9), "field x.v1.Vm.name was = 1 string, and is = 9 string"),
        (
            lambda file: setattr(vm(file).field[0], "type", FieldDescriptorProto.TYPE_BYTES),
            "field x.v1.Vm.name was = 1 string, and is = 1 bytes",
        ),
        (
            lambda file: setattr(vm(file).field[0], "label", FieldDescriptorProto.LABEL_REPEATED),
            "field x.v1.Vm.name was = 1 string, and is = 1 repeated string",
        ),
        (
            lambda file: vm(file).field[1].ClearField("oneof_index"),
            "field x.v1.Vm.pool was = 2 string in oneof disk, and is = 2 string",
        ),
        (
            lambda file: setattr(vm(file).field[0], "name", "title"),
            "field x.v1.Vm.name was removed (it was = 1 string)",
        ),
        (
            lambda file: setattr(vm(file).enum_type[0].value[0], "number", 4),
            "value x.v1.Vm.State.RUNNING was = 1, and is = 4",
        ),
        (
            lambda file: file.service[0].method.pop(),
            "rpc x.v1.Vms.Get was removed (it was (x.v1.Vm) returns (x.v1.Vm))",
        ),
        (
            lambda file: setattr(file.service[0].method[0], "server_streaming", True),
            "rpc x.v1.Vms.Get was (x.v1.Vm) returns (x.v1.Vm), and is (x.v1.Vm) returns (stream x.v1.Vm)",
        ),
    ],
)
def test_what_callers_stumble_over_is_a_break(change: Callable[[FileDescriptorProto], object], told: str) -> None:
    later = vm_service()
    change(later)
    assert breaks(api_of([vm_service()]), api_of([later])) == [told]


def test_a_record_is_read_as_it_was_written() -> None:
    api = api_of(present())
    assert "rpc ostler.control.v1.EventService.WatchEvents" in api
    assert parse(render(api)) == api


def test_the_recorded_api_holds() -> None:
    assert breaks(parse(RECORD.read_text()), api_of(present())) == []
