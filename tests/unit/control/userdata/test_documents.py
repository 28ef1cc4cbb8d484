"""Documents as people give them: what is read, and what is refused with which words."""

from __future__ import annotations

import base64
import gzip
import zlib
from functools import partial

import pytest
from ostler_common.errors import InvalidArgumentError
from ostler_control.userdata.formats import Format

from tests.unit.control.userdata.reading import MAX, read

CONFIG = b"#cloud-config\npackages: [nginx]\n"
packed = partial(gzip.compress, mtime=0)  # tests' names must not tell the time
MULTIPART = (
    b'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n\n'
    b"--b\nContent-Type: text/cloud-config\nMerge-Type: dict(replace)\n\n%s\n"
    b'--b\nContent-Type: text/x-shellscript\nContent-Disposition: attachment; filename="run.sh"\n\n#!/bin/sh\n\n--b--\n'
)


def refusal(data: bytes, max_length_bytes: int = MAX) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as caught:
        read(data, max_length_bytes=max_length_bytes)
    assert caught.value.metadata["document"].startswith("user data of VM web")
    return caught.value


def test_base64_is_decoded_exactly_once() -> None:
    once = base64.encodebytes(CONFIG)
    assert read(once).content == CONFIG
    assert refusal(base64.b64encode(once)).reason == "USERDATA_UNRECOGNIZED"


def test_base64_of_gzip_is_unpacked() -> None:
    document = read(base64.b64encode(packed(CONFIG)))
    assert (document.content, document.gzipped, document.format) == (CONFIG, True, Format.CLOUD_CONFIG)


def test_several_gzip_members_are_one_document() -> None:
    assert read(packed(CONFIG) + packed(b"runcmd: []\n")).content == CONFIG + b"runcmd: []\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (base64.b64encode(CONFIG)[:-1], "USERDATA_INVALID_BASE64"),
        (packed(CONFIG)[:-9], "USERDATA_INVALID_GZIP"),
        (b"\x1f\x8bnot really", "USERDATA_INVALID_GZIP"),
        (packed(packed(CONFIG)), "USERDATA_INVALID_GZIP"),
        (packed(b"") * 20, "USERDATA_INVALID_GZIP"),
        (packed(CONFIG + b"#" * (1 << 20)), "USERDATA_TOO_LARGE"),
        (b"", "USERDATA_EMPTY"),
        (b" \n\t\n", "USERDATA_EMPTY"),
        (packed(b""), "USERDATA_EMPTY"),
        (b"#cloud-config\n#" + b"x" * MAX, "USERDATA_TOO_LARGE"),
        ("#cloud-config\n".encode("utf-16"), "USERDATA_NOT_UTF8"),
    ],
)
def test_what_cannot_be_unpacked_is_refused(data: bytes, reason: str) -> None:
    assert refusal(data).reason == reason


def test_a_bomb_costs_no_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = packed(b"\0" * (64 << 20))
    made = []
    real = zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self.real = real(wbits)

        def decompress(self, data: bytes, limit: int) -> bytes:
            made.append(self.real.decompress(data, limit))
            return made[-1]

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    assert refusal(bomb, 1 << 20).reason == "USERDATA_TOO_LARGE"
    assert sum(map(len, made)) == (1 << 20) + 1


def test_the_limit_is_of_what_base64_holds() -> None:
    exact = b"#cloud-config\n#".ljust(MAX, b"x")
    assert read(base64.b64encode(exact)).content == exact
    assert refusal(base64.b64encode(exact + b"x")).reason == "USERDATA_TOO_LARGE"


def test_endless_base64_is_refused_before_it_is_decoded() -> None:
    assert "1048576" in refusal(b"A" * (2 << 20), 1 << 20).message


def test_what_stands_before_the_first_line_of_a_script_is_cut() -> None:
    script = b"#!/usr/bin/python3\nprint('caf\xe9')\r\n"
    for before in (b"\xef\xbb\xbf", b"\n\n", b"# for web servers\n", b"\xef\xbb\xbf# both\n  "):
        assert read(before + script).parts[0].content == script


def test_a_comment_above_a_cloud_config_stays() -> None:
    content = b"# web\n" + CONFIG
    assert read(b"\xef\xbb\xbf" + content).parts[0].content == content


@pytest.mark.parametrize(
    ("data", "reason", "line"),
    [
        (b"packages: [nginx]\n", "USERDATA_UNRECOGNIZED", 1),
        (b"# note\n\nnginx\n", "USERDATA_UNRECOGNIZED", 3),
        (b"#cloud-config\na: 1\n\tb: 2\n", "USERDATA_INVALID_YAML", 3),
        (b"#cloud-config\r\na: [1\r\nb: 2\r\n", "USERDATA_INVALID_YAML", 3),
        (b"#cloud-config\n- a\n", "USERDATA_INVALID_YAML", 2),
        (b"#cloud-config\na: *nothing\n", "USERDATA_INVALID_YAML", 2),
        (b"#cloud-config\na: 1\n---\nb: 1\n", "USERDATA_INVALID_YAML", 3),
        (b"#cloud-config\na: b\na\x01: c\n", "USERDATA_INVALID_YAML", 3),
        (b"#cloud-config\na: " + b"[" * 200 + b"]" * 200, "USERDATA_INVALID_YAML", 2),
        (b"#cloud-config\na: " + b"[" * 20_000, "USERDATA_INVALID_YAML", 2),
        (b"#cloud-config\na: 1\nb: caf\xe9\n", "USERDATA_NOT_UTF8", 3),
        (b"## template: jinja\n#cloud-config\nb: caf\xe9\n", "USERDATA_NOT_UTF8", 3),
        (b"#!\necho\n", "USERDATA_NO_INTERPRETER", 1),
        (b"#include\nhttps://example.com/a\nexample.com\n", "USERDATA_INVALID_URL", 3),
        (b"#cloud-config-archive\na: 1\n", "USERDATA_INVALID_YAML", 2),
        (b"#cloud-config-archive\n- [a]\n", "USERDATA_INVALID_YAML", 2),
        (b"#cloud-config-archive\n- content: {a: 1}\n", "USERDATA_INVALID_YAML", 2),
    ],
)
def test_the_refusal_names_the_line(data: bytes, reason: str, line: int) -> None:
    error = refusal(data)
    assert (error.reason, error.metadata["line"]) == (reason, str(line))
    assert f"user data of VM web, line {line}: " in error.message


@pytest.mark.parametrize(
    "data",
    [
        b"#cloud-config\npassword: *hunter22\n",
        b"#cloud-config\npassword: !hunter22! x\n",
        b'#cloud-config\npassword: "hunter22\n',
        b"#cloud-config\nhunter22\n",
        b"#!hunter22\n",
        b"#include\nhunter22\n",
        b"hunter22\n",
    ],
)
def test_no_refusal_shows_what_is_in_the_document(data: bytes) -> None:
    error = refusal(data)
    assert "hunter22" not in error.message
    assert "hunter22" not in repr(error)


def test_a_document_does_not_show_its_content() -> None:
    assert "nginx" not in repr(read(CONFIG))


def test_yaml_is_read_in_bounded_time_and_memory() -> None:
    merges = b"".join(b"m%d: &m%d {<<: [%s]}\n" % (n, n, b", ".join([b"*m%d" % (n - 1)] * 9)) for n in range(1, 30))
    laughs = b"".join(b"l%d: &l%d [%s]\n" % (n, n, b", ".join([b"*l%d" % (n - 1)] * 9)) for n in range(1, 30))
    read(b"#cloud-config\nm0: &m0 {a: 1}\nl0: &l0 [lol]\n" + merges + laughs)


def test_multipart_is_split_into_parts() -> None:
    first, second = read(MULTIPART % CONFIG).parts
    assert (first.format, first.content, first.headers) == (
        Format.CLOUD_CONFIG,
        CONFIG,
        (("Merge-Type", "dict(replace)"),),
    )
    assert (second.format, second.content, second.filename) == (Format.SCRIPT, b"#!/bin/sh\n", "run.sh")


def test_multipart_with_crlf_is_split_alike() -> None:
    first, second = read((MULTIPART % CONFIG).replace(b"\n", b"\r\n")).parts
    assert (first.content, second.content) == (CONFIG.replace(b"\n", b"\r\n"), b"#!/bin/sh\r\n")


def test_a_refusal_names_the_part_and_its_line() -> None:
    error = refusal((MULTIPART % CONFIG).replace(b"#!/bin/sh", b"#!"))
    assert "user data of VM web, part 2 (run.sh), line 1: " in error.message
    assert "user data of VM web, part 1, line 3: " in refusal(MULTIPART % (CONFIG + b"}\n")).message


def test_nested_and_compressed_parts_are_dissolved() -> None:
    inner = base64.encodebytes(packed(b"#cloud-config\nruncmd: [id]\n"))
    data = (
        b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=o\n\n"
        b"--o\nContent-Type: multipart/mixed; boundary=i\n\n"
        b"--i\n\n#!/bin/sh\n\n"
        b"--i\nContent-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n" + inner + b"--i--\n--o--\n"
    )
    assert [(part.format, part.content) for part in read(data).parts] == [
        (Format.SCRIPT, b"#!/bin/sh\n"),
        (Format.CLOUD_CONFIG, b"#cloud-config\nruncmd: [id]\n"),
    ]


@pytest.mark.parametrize(
    "data",
    [
        (MULTIPART % CONFIG).replace(b"--b--\n", b""),
        (MULTIPART % CONFIG).replace(b'; boundary="b"', b""),
        (MULTIPART % CONFIG).replace(b'"b"', b'"c"'),
        (MULTIPART % CONFIG).replace(b"text/cloud-config", b"message/rfc822"),
        (MULTIPART % CONFIG).replace(b"dict(replace)", b"caf\xe9"),
        (MULTIPART % CONFIG).replace(b"text/x-shellscript", b"text/x-shellscript\nContent-Transfer-Encoding: base64"),
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\nContent-Type: multipart/mixed; boundary=b\n\n" * 500,
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n#!/bin/sh\n" * 500 + b"--b--\n",
    ],
)
def test_broken_mime_is_refused(data: bytes) -> None:
    assert refusal(data).reason == "USERDATA_INVALID_MIME"


def test_a_part_that_cloud_init_would_drop_is_refused_unless_a_handler_may_want_it() -> None:
    data = (MULTIPART % CONFIG).replace(b"#!/bin/sh", b"hello").replace(b"x-shellscript", b"plain")
    assert refusal(data).reason == "USERDATA_UNRECOGNIZED"
    handler = b"#part-handler\ndef list_types(): return ['text/plain']\n"
    assert len(read(data.replace(CONFIG, handler).replace(b"text/cloud-config", b"text/part-handler")).parts) == 2


def test_an_archive_becomes_its_entries() -> None:
    data = (
        b"#cloud-config-archive\n"
        b"- |\n  #!/bin/sh\n  echo one\n"
        b"- {type: text/cloud-boothook, filename: hook.sh, content: '#!/bin/sh', X-Note: early, launch-index: 2}\n"
        b"- content: !!binary IyEvYmluL3NoCg==\n  type: text/x-shellscript\n"
        b"- 'packages: [nginx]'\n"
    )
    found = [(part.format, part.content, part.filename, part.headers) for part in read(data).parts]
    assert found == [
        (Format.SCRIPT, b"#!/bin/sh\necho one\n", "", ()),
        (Format.BOOTHOOK, b"#!/bin/sh", "hook.sh", (("X-Note", "early"), ("launch-index", "2"))),
        (Format.SCRIPT, b"#!/bin/sh\n", "", ()),
        (Format.CLOUD_CONFIG, b"packages: [nginx]", "", ()),
    ]
    assert "entry 4" in read(data).parts[3].document
