"""Debian's cloud-init reads what the merge writes: every part, byte for byte, and all of them take effect."""

from __future__ import annotations

import base64
import email.mime.base
import email.mime.multipart
import gzip
import subprocess
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ostler_control.userdata import matrix
from ostler_control.userdata.formats import Format
from ostler_control.userdata.merging import Policy
from ostler_control.userdata.rendering import Inputs, Source, render
from ostler_control.userdata.seed import Addressing, Guest, SeedNic

from tests.cloud_init import ENVIRONMENT, CloudInit
from tests.unit.control.userdata.reading import append

LARGE = 1 << 20
GUEST = Guest("id-1", "web1", (SeedNic("52:54:00:00:00:01"),))


@dataclass(frozen=True)
class Given:
    """A document, and the content of each part that must come out again."""

    data: bytes
    contents: tuple[bytes, ...]


# Lines that could be taken for something else on the way.
_LINES = st.sampled_from(
    [b"--b", b"--b--", b"--==0==", b"From here", b"MIME-Version: 1.0", b"Content-Type: text/plain", b"", b".", b"#!/x"]
)
_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Zl", "Zp")), max_size=30).map(
    str.encode
)
_ENDS = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def _comments(draw: st.DrawFn) -> bytes:
    """Lines that every text format takes as comments."""
    end = draw(_ENDS)
    lines = draw(st.lists(st.one_of(_LINES, _TEXT), max_size=6))
    return b"".join(b"# " + line + end for line in lines) + draw(st.sampled_from([b"", b"# end"]))


@st.composite
def _part(draw: st.DrawFn) -> tuple[str, bytes]:
    """A content type and its content."""
    known = draw(
        st.sampled_from([Format.CLOUD_CONFIG, Format.SCRIPT, Format.BOOTHOOK, Format.JINJA, Format.PART_HANDLER])
    )
    end = draw(_ENDS)
    if known in (Format.SCRIPT, Format.BOOTHOOK):
        body = end.join(draw(st.lists(st.one_of(_LINES, _TEXT, st.binary(max_size=40)), max_size=6)))
        interpreter = draw(st.sampled_from([b"#!/bin/sh", b"#! /usr/bin/env python3", b"#!/bin/bash -x"]))
        hook = b"#cloud-boothook" + end if known is Format.BOOTHOOK else b""
        return known.content_type, hook + interpreter + end + body
    head = {
        Format.CLOUD_CONFIG: b"#cloud-config" + end + b"runcmd: [date]" + end,
        Format.JINJA: b"## template: jinja" + end + b"#cloud-config" + end,
        Format.PART_HANDLER: b"#part-handler" + end,
    }[known]
    return known.content_type, head + draw(_comments())


@st.composite
def _document(draw: st.DrawFn) -> Given:
    parts = draw(st.lists(_part(), min_size=1, max_size=4))
    shape = draw(st.sampled_from(["single", "multipart", "archive"]))
    if shape == "archive" and not all(_fits_yaml(content) for _, content in parts):
        shape = "multipart"
    if shape == "single":
        parts = parts[:1]
        data = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + parts[0][1]
    elif shape == "multipart":
        data = _multipart(parts)
    else:
        entries = [{"type": stated, "content": content.decode()} for stated, content in parts]
        data = b"#cloud-config-archive\n" + yaml.safe_dump(entries, allow_unicode=draw(st.booleans())).encode()
    if draw(st.booleans()):
        data = gzip.compress(data, mtime=0)
    if draw(st.booleans()):
        data = base64.encodebytes(data)
    return Given(data, tuple(content for _, content in parts))


def _fits_yaml(content: bytes) -> bool:
    try:
        return bool(content.decode() == yaml.safe_load(yaml.safe_dump(content.decode())))
    except (UnicodeDecodeError, yaml.YAMLError):
        return False


def _multipart(parts: list[tuple[str, bytes]]) -> bytes:
    """Written by Python's own email package, not by what is tested."""
    outer = email.mime.multipart.MIMEMultipart(boundary="==0==")
    for stated, content in parts:
        message = email.mime.base.MIMEBase(*stated.split("/"))
        message.set_payload(base64.encodebytes(content).decode())
        message["Content-Transfer-Encoding"] = "base64"
        outer.attach(message)
    return outer.as_bytes()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(template=_document(), own=_document())
def test_every_part_survives_byte_for_byte(cloud_init: CloudInit, template: Given, own: Given) -> None:
    merged = append(template.data, own.data, LARGE)
    found = cloud_init.parts(merged)
    assert [part.content for part in found] == [*template.contents, *own.contents]
    assert len({part.filename for part in found}) == len(found)
    assert [part.filename for part in found] == sorted(part.filename for part in found)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(only=_document())
def test_a_document_alone_survives_too(cloud_init: CloudInit, only: Given) -> None:
    made = render(Inputs(GUEST, own=Source("VM web1", only.data)), LARGE)
    assert [part.content for part in cloud_init.parts(made.user_data)] == list(only.contents)


# cloud-init fetches an include: it has a test of its own.
LOCAL = [known for known in matrix.SAMPLES if known is not Format.INCLUDE]


@pytest.mark.parametrize("template", LOCAL)
def test_every_pair_of_formats_takes_effect(cloud_init: CloudInit, template: Format) -> None:
    for number, own in enumerate(LOCAL):
        first = matrix.sample(template, "template", gzipped=number % 2 == 1)
        second = matrix.sample(own, "vm", gzipped=number % 3 == 1)
        booted = cloud_init.boot(_appended(first, second))
        assert booted["schema"] == ""
        for known, who in ((template, "template"), (own, "vm")):
            _assert_effect(booted, known, who)


def _assert_effect(booted: dict[str, object], known: Format, who: str) -> None:
    config, scripts = booted["config"], booted["scripts"]
    assert isinstance(config, dict)
    assert isinstance(scripts, dict)
    commands = config.get("runcmd", [])
    if known is Format.CLOUD_CONFIG:
        assert f"touch /run/{who}" in commands
    elif known is Format.JINJA:
        assert f"touch /run/id-1-{who}" in commands
    elif known in (Format.SCRIPT, Format.ARCHIVE, Format.MULTIPART):
        assert f"#!/bin/sh\ntouch /run/{who}".encode() in [content.strip() for content in scripts.values()]
    elif known is Format.BOOTHOOK:
        assert booted["boothooks"]
    else:
        assert booted["handlers"]
    if known is Format.MULTIPART:
        assert f"touch /run/{who}-too" in commands


def _appended(template: bytes, own: bytes) -> dict[str, bytes]:
    return render(Inputs(GUEST, Source("template", template), Source("VM web1", own), Policy.APPEND), LARGE).files()


class _Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"#!/bin/sh\ntouch /run/included\n")

    def log_message(self, *args: object) -> None:
        pass


def test_an_include_is_fetched_by_the_guest(cloud_init: CloudInit) -> None:
    with HTTPServer(("127.0.0.1", 0), _Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/script"
        booted = cloud_init.boot(_appended(b"#!/bin/sh\n", f"#include\n{url}\n".encode()))
        server.shutdown()
    assert sorted(booted["scripts"].values()) == [b"#!/bin/sh\n", b"#!/bin/sh\ntouch /run/included\n"]


def test_two_cloud_configs_lose_no_key_and_the_templates_words_stand(cloud_init: CloudInit) -> None:
    booted = cloud_init.boot(
        _appended(
            b"#cloud-config\npackages: [nginx]\nruncmd: [one]\ntimezone: UTC\nntp: {enabled: true}\n",
            b"#cloud-config\npackages: [redis]\nruncmd: [two]\ntimezone: CET\nntp: {servers: [a]}\nlocale: C\n",
        )
    )
    assert booted["config"] == {
        "packages": ["nginx", "redis"],
        "runcmd": ["one", "two"],
        "timezone": "UTC",
        "ntp": {"enabled": True, "servers": ["a"]},
        "locale": "C",
    }


def test_a_document_may_say_itself_how_it_joins(cloud_init: CloudInit) -> None:
    own = b"#cloud-config\nmerge_how: 'dict(replace)+list()+str()'\npackages: [redis]\n"
    assert cloud_init.boot(_appended(b"#cloud-config\npackages: [nginx]\n", own))["config"]["packages"] == ["redis"]


def test_cloud_init_finds_what_the_seed_says_of_the_guest(cloud_init: CloudInit) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ann@desk"
    static = SeedNic("52:54:00:00:00:02", Addressing(("192.0.2.2/24", "2001:db8::2/64"), ("192.0.2.1", "2001:db8::1")))
    own = Source("VM", b"## template: jinja\n#cloud-config\nfqdn: {{ ds.meta_data.role }}\n", ("role",))
    guest = Guest("id-7", "web7", (SeedNic("52:54:00:00:00:01"), static), (key,))
    booted = cloud_init.boot(render(Inputs(guest, own=own, values={"role": "db"}), LARGE).files())
    assert (booted["instance_id"], booted["hostname"], booted["public_keys"]) == ("id-7", "web7", [key])
    assert booted["config"] == {"fqdn": "db"}
    assert booted["network"]["ethernets"]["nic1"]["addresses"] == ["192.0.2.2/24", "2001:db8::2/64"]


def test_cloud_inits_own_command_finds_no_fault_with_the_schema(tmp_path: Path, cloud_init: CloudInit) -> None:
    booted = cloud_init.boot(
        _appended(
            matrix.sample(Format.CLOUD_CONFIG, "template"), b"#cloud-config\npackages: [nginx]\nntp: {enabled: true}\n"
        )
    )
    joined = tmp_path / "cloud-config.yaml"
    joined.write_text("#cloud-config\n" + yaml.safe_dump(booted["config"]))
    checked = subprocess.run(
        ["/usr/bin/cloud-init", "schema", "--config-file", joined],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert checked.returncode == 0, checked.stderr
    assert "Valid" in checked.stdout
