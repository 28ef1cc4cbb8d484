"""A template's user data and a VM's: policies, order, size."""

from __future__ import annotations

import gzip
import random

import pytest
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError
from ostler_control.userdata import mime
from ostler_control.userdata.formats import Format
from ostler_control.userdata.merging import MERGE_TYPE, Policy, combine

from tests.unit.control.userdata.reading import MAX, append, read

CONFIG = b"#cloud-config\npackages: [nginx]\n"
SCRIPT = b"#!/bin/sh\necho hello\n"


def test_what_each_policy_makes_of_it() -> None:
    template, own = read(CONFIG), read(SCRIPT)
    assert combine(template, own, Policy.ALLOW_OVERRIDE, MAX) == SCRIPT
    with pytest.raises(FailedPreconditionError, match="DENYOVERRIDE") as caught:
        combine(template, own, Policy.DENY_OVERRIDE, MAX)
    assert caught.value.reason == "USERDATA_DENIED"
    parts = mime.read(combine(template, own, Policy.APPEND, MAX), "merged")
    assert [part.content for part in parts] == [CONFIG, SCRIPT]


@pytest.mark.parametrize("policy", Policy)
def test_one_alone_is_used_under_every_policy(policy: Policy) -> None:
    assert combine(read(CONFIG), None, policy, MAX) == CONFIG
    assert combine(None, read(SCRIPT), policy, MAX) == SCRIPT
    assert combine(None, None, policy, MAX) == b""


def test_each_script_keeps_its_interpreter_and_its_place() -> None:
    python = b"#!/usr/bin/env python3\nprint()\n"
    parts = mime.read(append(SCRIPT, python), "merged")
    assert [(part.filename, part.content) for part in parts] == [("001-part", SCRIPT), ("002-part", python)]


def test_only_what_cloud_init_joins_gets_a_way_to_join() -> None:
    own = (
        b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
        b"--b\nContent-Type: text/cloud-config\nX-Merge-Type: dict(replace)\n\n#cloud-config\na: 1\n\n"
        b"--b\nContent-Type: text/jinja2\n\n## template: jinja\n#cloud-config\na: 1\n\n--b--\n"
    )
    parts = mime.read(append(SCRIPT, own), "merged")
    assert [part.headers for part in parts] == [
        (),
        (("X-Merge-Type", "dict(replace)"),),
        (("Merge-Type", MERGE_TYPE),),
    ]


def test_files_of_one_name_do_not_overwrite_each_other() -> None:
    named = (
        b"MIME-Version: 1.0\nContent-Type: text/x-shellscript\n"
        b'Content-Disposition: attachment; filename="../a b.sh"\n\n#!/bin/sh\n'
    )
    merged = mime.read(append(named, named), "merged")
    assert [part.filename for part in merged] == ["001-.._a_b.sh", "002-.._a_b.sh"]


def test_a_boundary_inside_content_does_no_harm() -> None:
    once = append(CONFIG, SCRIPT)
    boundary = once.split(b'boundary="')[1].split(b'"')[0]
    script = b"#!/bin/sh\ncat <<E\n--" + boundary + b"\n\n--" + boundary + b"--\nE\n"
    again = mime.read(append(once, script), "merged")
    assert [part.content for part in again] == [CONFIG, SCRIPT, script]


def test_the_result_is_the_same_every_time() -> None:
    assert append(CONFIG, SCRIPT) == append(CONFIG, SCRIPT)


def test_plain_text_stays_readable() -> None:
    assert CONFIG + b"\n--" in append(CONFIG, SCRIPT)


def test_compressed_documents_merge_like_others() -> None:
    assert append(gzip.compress(CONFIG, mtime=0), gzip.compress(SCRIPT, mtime=0)) == append(CONFIG, SCRIPT)


def test_the_result_is_compressed_only_when_it_must_shrink() -> None:
    long = b"#!/bin/sh\n" + b"# filler\n" * 3000
    merged = append(long, long)
    assert merged.startswith(b"\x1f\x8b")
    assert len(merged) <= MAX
    assert [part.content for part in read(merged).parts] == [long, long]
    assert append(long, SCRIPT).startswith(b"MIME-Version")


def test_a_result_that_stays_too_long_is_refused() -> None:
    noise = b"#!/bin/sh\n#" + bytes(random.Random(1).choices(range(33, 127), k=28_000))
    with pytest.raises(InvalidArgumentError, match=r"of user data of template debian and .* vm.userdata.max.length"):
        append(noise, noise[::-1].join([b"#!/bin/sh\n", b""]))


@pytest.mark.parametrize(
    ("data", "is_wrapped"),
    [
        (CONFIG, False),
        (b"\n" + CONFIG, False),
        (SCRIPT.replace(b"\n", b"\r\n"), False),
        ("#cloud-config\nfqdn: café\n".encode(), False),
        (b"# note\n" + CONFIG, True),
        (b"#!/bin/sh\necho caf\xe9\n", True),
        (b"#!/bin/sh\necho 'MIME-Version: 1.0'\n", True),
    ],
)
def test_a_single_document_is_wrapped_only_where_cloud_init_would_not_know_it(data: bytes, is_wrapped: bool) -> None:
    result = combine(None, read(data), Policy.APPEND, MAX)
    assert (result == data) is not is_wrapped
    assert mime.read(result, "x")[0].content == data if is_wrapped else True


def test_a_multipart_of_another_encoding_is_written_anew() -> None:
    data = "Content-Type: text/x-shellscript\n\n#!/bin/sh\necho café\n".encode()
    result = combine(None, read(data), Policy.APPEND, MAX)
    assert result.isascii()
    (part,) = mime.read(result, "x")
    assert (part.format, part.content.decode()) == (Format.SCRIPT, "#!/bin/sh\necho café\n")
