"""The schema of details that a driver states, and values that are checked against it."""

from __future__ import annotations

import pytest
from ostler_common.driver_details import DetailField, DetailKind, check_schema, check_values
from ostler_common.errors import FailedPreconditionError

SCHEMA = (
    DetailField("kernel", "path of the kernel on the host", required=True),
    DetailField("command-line", "the kernel's command line", per_vm=True, max_length=20),
    DetailField("queues", "queues of a disk", DetailKind.NUMBER, minimum=1, maximum=8),
    DetailField("smt", "whether threads are visible", DetailKind.BOOLEAN),
    DetailField("mode", "how it runs", values=("fast", "safe")),
)


def test_values_of_every_kind_pass() -> None:
    check_schema(SCHEMA)
    good = {"kernel": "/boot/vmlinux", "command-line": "quiet", "queues": "8", "smt": "true", "mode": "fast"}
    check_values(good, SCHEMA, "Firecracker")
    check_values({"kernel": "/boot/vmlinux"}, SCHEMA, "Firecracker")
    check_values({}, (), "KVM")


@pytest.mark.parametrize(
    ("details", "reason", "text"),
    [
        ({}, "DETAIL_MISSING", "driver.kernel: path of the kernel"),
        ({"kernel": "/k", "initrd": "/i"}, "DETAIL_UNKNOWN", "it has: command-line, kernel, mode, queues, smt"),
        ({"kernel": ""}, "DETAIL_INVALID", "1 to 1024 printable"),
        ({"kernel": "/k\n/l"}, "DETAIL_INVALID", "printable"),
        ({"kernel": "/k", "command-line": "x" * 21}, "DETAIL_INVALID", "1 to 20"),
        ({"kernel": "/k", "queues": "9"}, "DETAIL_INVALID", "must be 1 to 8"),
        ({"kernel": "/k", "queues": "9" * 400}, "DETAIL_INVALID", "whole number"),
        ({"kernel": "/k", "queues": "-1"}, "DETAIL_INVALID", "whole number"),
        ({"kernel": "/k", "smt": "yes"}, "DETAIL_INVALID", "true or false"),
        ({"kernel": "/k", "mode": "slow"}, "DETAIL_INVALID", "fast, safe"),
    ],
)
def test_wrong_values_are_refused_by_name(details: dict[str, str], reason: str, text: str) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        check_values(details, SCHEMA, "Firecracker")
    assert (caught.value.reason, text in caught.value.message) == (reason, True), caught.value.message
    assert caught.value.metadata["detail"].startswith("driver.")


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (DetailField("Kernel", "x"), "lower-case"),
        (DetailField("root-password", "x"), "secrets"),
        (DetailField("api-token", "x"), "secrets"),
        (DetailField("kernel", ""), "summary"),
        (DetailField("kernel", "x", max_length=5000), "max_length"),
        (DetailField("n", "x", DetailKind.NUMBER, minimum=5, maximum=4), "minimum"),
        (DetailField("n", "x", DetailKind.NUMBER, values=("one",)), "values"),
    ],
)
def test_a_wrong_schema_is_refused(field: DetailField, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check_schema([field])
    with pytest.raises(ValueError, match="twice"):
        check_schema([SCHEMA[0], SCHEMA[0]])
