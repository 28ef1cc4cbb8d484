"""IP addresses that guests are seen to use, checked: a guest can claim anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from ostler_common.hypervisors import Function
from ostler_common.seen_addresses import MAX_SEEN_ADDRESSES, is_usable

from ostler_agent.hypervisors.base import GuestAddresses, Hypervisor, SeenAddress, need


def read(driver: Hypervisor, vm_id: str) -> list[SeenAddress]:
    """The usable addresses of a running VM, each once, at most MAX_SEEN_ADDRESSES.

    Raises FailedPreconditionError FUNCTION_NOT_SUPPORTED.
    """
    need(driver, Function.GUEST_ADDRESSES)
    assert isinstance(driver, GuestAddresses)
    found = dict.fromkeys(_checked(driver.guest_addresses(vm_id)))
    return list(found)[:MAX_SEEN_ADDRESSES]


def _checked(claims: Iterable[SeenAddress]) -> Iterator[SeenAddress]:
    for claim in claims:
        mac = claim.mac.lower()
        if is_usable(mac, claim.address):
            yield SeenAddress(mac, str(ip_address(claim.address)), claim.source)
