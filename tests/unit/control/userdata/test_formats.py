"""How a format is told."""

from __future__ import annotations

import pytest
from ostler_control.userdata.formats import Format, detect


@pytest.mark.parametrize(
    ("content", "known", "line"),
    [
        (b"#cloud-config\na: 1\n", Format.CLOUD_CONFIG, 1),
        (b"#Cloud-Config\r\na: 1\r\n", Format.CLOUD_CONFIG, 1),
        (b"# web servers\n\n  # (all)\n#cloud-config\na: 1\n", Format.CLOUD_CONFIG, 4),
        (b"#!/bin/sh\n", Format.SCRIPT, 1),
        (b"#! /usr/bin/env python3\n#cloud-config\n", Format.SCRIPT, 1),
        (b"#cloud-boothook\n#!/bin/sh\n", Format.BOOTHOOK, 1),
        (b"#include\nhttps://example.com\n", Format.INCLUDE, 1),
        (b"#include https://example.com\n", Format.INCLUDE, 1),
        (b"#include-once https://example.com\n", Format.INCLUDE_ONCE, 1),
        (b"## template: jinja\n#cloud-config\n", Format.JINJA, 1),
        (b"##template:jinja\n#!/bin/sh\n", Format.JINJA, 1),
        (b"#cloud-config-archive\n- a\n", Format.ARCHIVE, 1),
        (b"#cloud-config-jsonp\n[]\n", Format.JSON_PATCH, 1),
        (b"#part-handler\n", Format.PART_HANDLER, 1),
        (b"MIME-Version: 1.0\n\n", Format.MULTIPART, 1),
        (b"Subject: x\nContent-Type: multipart/mixed;\n boundary=b\n\n--b--\n", Format.MULTIPART, 1),
        (b"# comment\nContent-Type: text/cloud-config\n\na: 1\n", Format.MULTIPART, 2),
        (b"packages: [nginx]\n#cloud-config\n", None, 1),
        (b"\n# only\n# comments\n", None, 1),
        (b"#included by hand\nhello\n", None, 2),
        (b"#cloud-configuration\n", None, 1),
    ],
)
def test_the_first_line_that_counts_tells(content: bytes, known: Format | None, line: int) -> None:
    found = detect(content)
    assert (found.format, found.line) == (known, line)
