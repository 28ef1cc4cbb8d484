"""A template's URL cannot make a host connect to its own network."""

from __future__ import annotations

import pytest
from ostler_agent.direct_download import DirectSource, Downloader, is_public
from ostler_common.errors import OstlerError

INWARD = {
    "NAT64 of 10.0.0.1": "64:ff9b::a00:1",
    "NAT64 of 127.0.0.1": "64:ff9b::7f00:1",
    "NAT64 of a metadata service": "64:ff9b::a9fe:a9fe",
    "NAT64 of one site": "64:ff9b:1::808:808",
    "6to4 of 10.0.0.1": "2002:a00:1::1",
    "6to4 of a public address": "2002:808:808::1",
    "Teredo": "2001:0:808:808::1",
    "IPv4-compatible 10.0.0.1": "::10.0.0.1",
    "IPv4-compatible public address": "::8.8.8.8",
    "IPv4-mapped 10.0.0.1": "::ffff:10.0.0.1",
    "site-local": "fec0::1",
    "link-local": "fe80::1%eth0",
    "unique local": "fd00::1",
    "loopback": "::1",
    "multicast": "ff0e::1",
    "private": "192.168.1.1",
    "metadata service": "169.254.169.254",
}


@pytest.mark.parametrize("address", INWARD.values(), ids=INWARD.keys())
def test_an_address_that_leads_inward_is_refused(address: str) -> None:
    assert not is_public(address)
    inward = Downloader(lambda host, port: [address])
    with pytest.raises(OstlerError) as caught:
        b"".join(inward.read(DirectSource("https://images.example.org/image"), 0, 1))
    assert caught.value.reason == "PRIVATE_ADDRESS"


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_accepted(address: str) -> None:
    assert is_public(address)
