"""XML of strangers: plain elements, or refused before anything of it is expanded."""

from __future__ import annotations

import pytest
from ostler_common.xml_document import XmlError, XmlLimits, XmlTooLargeError, parse

LIMITS = XmlLimits(max_elements=4, max_depth=3, max_text=5)


def test_namespaces_prefixes_and_cdata_make_no_difference() -> None:
    root = parse(b'<s:a xmlns:s="urn:x" s:k="123456"><s:b> 1 </s:b><b><![CDATA[<2>]]></b></s:a>', LIMITS)
    assert (root.name, root.namespace, root.get("k"), root.get("none")) == ("a", "urn:x", "12345", "")
    assert [child.text for child in root.children] == [" 1 ", "<2>"]
    assert (root.text_of("b"), root.text_of("none")) == ("1", "")


def test_text_ends_at_its_limit() -> None:
    assert parse(b"<a>12<b/>34567</a>", LIMITS).text == "12345"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "it is not well-formed XML"),
        (b"<a></b>", "it is not well-formed XML"),
        (b'<?xml version="1.0" encoding="none"?><a/>', "it is not well-formed XML"),
        (b"<!DOCTYPE a><a/>", "it has a document type"),
        (b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", "it has a document type"),
        (b"<?php x?><a/>", "it has a processing instruction"),
    ],
)
def test_what_a_document_has_no_need_of_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(XmlError) as caught:
        parse(data, LIMITS)
    assert str(caught.value) == what


@pytest.mark.parametrize("data", [b"<a><b/><b/><b/><b/></a>", b"<a><b><c><d/></c></b></a>"])
def test_what_is_too_large_is_refused(data: bytes) -> None:
    with pytest.raises(XmlTooLargeError):
        parse(data, LIMITS)
