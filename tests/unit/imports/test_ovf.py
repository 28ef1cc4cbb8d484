"""Reading OVF descriptors that anybody may have written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_common.errors import InvalidArgumentError
from ostler_control.imports.ovf import MAX_BYTES, OvfDisk, OvfNic, parse

from tests.unit.imports.ovf_documents import ENVELOPE, GOOD


def refused(text: str, reason: str = "NOT_AN_OVF") -> str:
    with pytest.raises(InvalidArgumentError) as error:
        parse(text.encode())
    assert error.value.reason == reason
    return error.value.message


def test_a_descriptor_tells_what_the_vm_is() -> None:
    ovf = parse(GOOD.encode())
    assert (ovf.name, ovf.cpus, ovf.memory_bytes) == ("web 1", 4, 2 << 30)
    assert (ovf.os_type, ovf.os_description, ovf.firmware, ovf.secure_boot) == ("ubuntu64Guest", "Ubuntu", "efi", True)
    assert ovf.nics == (OvfNic("VM Network", "vmxnet3", "00:50:56:aa:bb:01"),)


def test_disks_stand_in_the_order_of_their_items_not_of_their_files() -> None:
    assert parse(GOOD.encode()).disks == (
        OvfDisk("second.vmdk", 1 << 20, "virtualscsi", 1, 2, file_bytes=10),
        OvfDisk("first.vmdk", 8 << 30, file_bytes=10),
        OvfDisk("", 1 << 30),
    )


@pytest.mark.parametrize(
    "href",
    ["/etc/passwd", "../up.vmdk", "a/../../b", "a\\b", "http://host/a.vmdk", "..", ".hidden", "", "a\x7f", "ä.vmdk"],
)
def test_a_path_is_never_a_file_name(href: str) -> None:
    assert "not allowed" in refused(ENVELOPE.replace("{href}", href))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("<rasd:VirtualQuantity>4<", f"<rasd:VirtualQuantity>{10**17}<", "CPUs"),
        ("<rasd:VirtualQuantity>2048<", f"<rasd:VirtualQuantity>{10**17}<", "memory"),
        ("byte * 2^20<", "byte * 2^50<", "memory"),
        ('ovf:capacity="8" ', f'ovf:capacity="{10**17}" ', "capacity"),
    ],
)
def test_a_number_that_no_field_holds_is_refused(old: str, new: str, what: str) -> None:
    assert old in GOOD
    assert what in refused(GOOD.replace(old, new))


@pytest.mark.parametrize(
    "beginning",
    [
        "<!DOCTYPE Envelope>",
        '<!DOCTYPE Envelope [<!ENTITY a "b">]>',
        '<!DOCTYPE Envelope SYSTEM "file:///etc/passwd">',
        "<?xml-stylesheet href='a'?>",
    ],
)
def test_document_types_and_instructions_are_refused(beginning: str) -> None:
    head, rest = GOOD.split("\n", 1)
    refused(f"{head}\n{beginning}\n{rest}")


def test_entities_do_not_multiply() -> None:
    laughs = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    refused(f'<!DOCTYPE x [<!ENTITY a0 "ha">{laughs}]><x>&a9;</x>')


def test_limits() -> None:
    refused(GOOD + " " * MAX_BYTES, "OVF_TOO_LARGE")
    namespace = 'xmlns="http://schemas.dmtf.org/ovf/envelope/1"'
    refused(f"<Envelope {namespace}>" + "<a>" * 40 + "</a>" * 40 + "</Envelope>", "OVF_TOO_LARGE")
    refused(f"<Envelope {namespace}>" + "<a/>" * 30_000 + "</Envelope>", "OVF_TOO_LARGE")
    item = "<Item><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>/disk/vmdisk3</rasd:HostResource></Item>"
    refused(GOOD.replace("<vmw:Config", item * 65 + "<vmw:Config", 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<rasd:VirtualQuantity>4", "<rasd:VirtualQuantity>four"),
        ('ovf:capacity="8"', 'ovf:capacity="-8"'),
        ("byte * 2^30", "byte * 2^99"),
        ("byte * 2^30", "furlongs"),
        ("<rasd:Address>1<", "<rasd:Address>one<"),
        ('ovf:fileRef="file1"', 'ovf:fileRef="file9"'),
        ("ovf:/disk/vmdisk1", "ovf:/disk/vmdisk9"),
        ('ovf:id="file1" ovf:size="10"', 'ovf:id="file1" ovf:compression="gzip"'),
        ("VirtualHardwareSection", "OtherSection"),
        ("<VirtualSystem ", '<VirtualSystem ovf:id="x"/><VirtualSystem '),
        ("http://schemas.dmtf.org/ovf/envelope/1", "http://example.org"),
        ("</Envelope>", ""),
    ],
)
def test_what_cannot_be_understood_is_refused(old: str, new: str) -> None:
    assert old in GOOD
    refused(GOOD.replace(old, new))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        parse(data)


@given(st.data())
def test_a_damaged_descriptor_is_read_or_refused(data: st.DataObject) -> None:
    good = GOOD.encode()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 200)))
    try:
        ovf = parse(good[:start] + data.draw(st.binary(max_size=20)) + good[end:])
    except InvalidArgumentError:
        return
    assert all("/" not in disk.file_name for disk in ovf.disks)
