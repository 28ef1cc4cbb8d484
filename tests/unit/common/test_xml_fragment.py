"""XML that somebody else wrote: what is read of it, and what is refused at the first sight."""

from __future__ import annotations

import pytest
from ostler_common.errors import InvalidArgumentError
from ostler_common.xml_fragment import MAX_ATTRIBUTES, MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS, QEMU_NAMESPACE, parse


def refusal(text: str) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as caught:
        parse(text)
    return caught.value


def test_a_fragment_becomes_nodes_with_their_lines() -> None:
    cpu, devices = parse('<cpu mode="custom">\n <model>qemu64</model>\n</cpu>\n<devices>\n<video/></devices>')
    assert (cpu.name, cpu.attributes, cpu.line) == ("cpu", {"mode": "custom"}, 1)
    assert [(node.name, node.text, node.line) for node in cpu.children] == [("model", "qemu64", 2)]
    assert [("/".join(path), node.line) for path, node in devices.walk()] == [("devices", 4), ("devices/video", 5)]


def test_a_fragment_may_be_empty() -> None:
    assert parse(" \n") == ()


def test_comments_are_dropped_wherever_they_stand() -> None:
    assert parse("<video><!-- <disk/> --></video><!-- a -->") == parse("<video></video>")
    assert refusal("<vid<!-- -->eo/>").reason == "XML_SYNTAX"


def test_names_of_qemus_namespace_are_the_same_whatever_their_prefix() -> None:
    ways = (
        f'<qemu:commandline xmlns:qemu="{QEMU_NAMESPACE}"/>',
        f'<cpu:commandline xmlns:cpu="{QEMU_NAMESPACE}"/>',
        f'<commandline xmlns="{QEMU_NAMESPACE}"/>',
    )
    assert {parse(way)[0].name for way in ways} == {"qemu:commandline"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<cpu>", "XML_SYNTAX"),
        ("<cpu></CPU>", "XML_SYNTAX"),
        ("</fragment><fragment>", "XML_SYNTAX"),
        ("</fragment>", "XML_SYNTAX"),
        ("text <cpu/>", "XML_SYNTAX"),
        ("<cpu/> &#x41;", "XML_SYNTAX"),
        ("<cpu a='1' a='2'/>", "XML_SYNTAX"),
        ("<qemu:commandline/>", "XML_SYNTAX"),
        ("<cpu>&undefined;</cpu>", "XML_SYNTAX"),
        ('<?xml version="1.0"?><cpu/>', "XML_SYNTAX"),
        ("<cpu>\x00</cpu>", "XML_SYNTAX"),
        ("<cpu>\ud800</cpu>", "XML_SYNTAX"),
        ('<!DOCTYPE cpu [<!ENTITY x "y">]><cpu>&x;</cpu>', "XML_SYNTAX"),
        ("<?php disk ?><cpu/>", "XML_FORBIDDEN"),
        ("<cpu><?ostler disk?></cpu>", "XML_FORBIDDEN"),
        ("<cpu><![CDATA[<disk/>]]></cpu>", "XML_FORBIDDEN"),
        ('<x:disk xmlns:x="http://example.com/"/>', "XML_FORBIDDEN"),
        ('<disk xmlns="http://example.com/"/>', "XML_FORBIDDEN"),
        ('<cpu xml:space="preserve"/>', "XML_FORBIDDEN"),
        (f'<cpu q:a="1" xmlns:q="{QEMU_NAMESPACE}"/>', "XML_FORBIDDEN"),
        ("<dísk/>", "XML_FORBIDDEN"),
        (f"<{'a' * 100}/>", "XML_FORBIDDEN"),
        ("<cpu>" + "x" * MAX_BYTES + "</cpu>", "XML_TOO_LARGE"),
        ("<a>" * (MAX_DEPTH + 1) + "</a>" * (MAX_DEPTH + 1), "XML_TOO_LARGE"),
        ("<a/>" * (MAX_ELEMENTS + 1), "XML_TOO_LARGE"),
        ("<a " + " ".join(f"a{n}='1'" for n in range(MAX_ATTRIBUTES + 1)) + "/>", "XML_TOO_LARGE"),
    ],
)
def test_what_has_no_place_in_a_fragment_is_refused(text: str, reason: str) -> None:
    assert refusal(text).reason == reason


def test_the_limits_themselves_are_allowed() -> None:
    assert len(parse("<a/>" * MAX_ELEMENTS)) == MAX_ELEMENTS
    parse("<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH)
    parse("<a " + " ".join(f"a{n}='1'" for n in range(MAX_ATTRIBUTES)) + "/>")
    parse("<a>" + "x" * (MAX_BYTES - 7) + "</a>")


def test_a_refusal_names_the_line() -> None:
    error = refusal("<cpu/>\n<cpu>\n<?x y?></cpu>")
    assert error.metadata["line"] == "3"
    assert error.message.startswith("line 3: ")
