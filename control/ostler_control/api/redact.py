"""Redacts the names of hosts and of their bridges from what members see."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from ostler_common.bridges import bridge_of
from ostler_common.errors import OstlerError

from ostler_control.caller import Caller
from ostler_control.database import session
from ostler_control.models import AffinityGroup, Backup, Host, Network, Snapshot, Vm, VmSnapshot, Volume, tuples
from ostler_control.networks import usable_by

HIDDEN = "(hidden)"
_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")

# The word "host" or "bridge" and what can only be a name, for prose has no digits, dots or hyphens there.
_NAMED = re.compile(
    r'\b((?:hosts?|bridges?) "?)(?=[A-Za-z]*(?:[0-9]|[.-][A-Za-z0-9]))[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?'
)
_VLAN = re.compile(r"\b(VLAN )[0-9]+")

Conceal = Callable[[str], str]


def concealer(account_id: str, given: Message | None = None) -> Conceal:
    """Removes names of hosts and bridges, and VLAN tags, from texts for members of an account. It knows the present
    ones: create one per response.

    given: the request. What a member named, in it or as something of the account, stays as it is, whether or not a host
    or bridge has that name: otherwise its absence would tell. What follows the words "host" and "bridge" goes, whether
    or not there is such a one.
    """
    names: set[str] | None = None

    def conceal(text: str) -> str:
        nonlocal names
        if not text:
            return text
        if names is None:
            with session():
                names = {row.name for row in Host.select(Host.name)} | _bridges()
                names -= _texts(given) if given is not None else set()
                names -= _own_names(account_id, names)
        known = names
        text = _VLAN.sub(rf"\1{HIDDEN}", _NAMED.sub(rf"\1{HIDDEN}", text))
        return _WORD.sub(lambda match: HIDDEN if match.group() in known else match.group(), text)

    return conceal


def _texts(message: Message) -> set[str]:
    """Every text field of a request, also within its own messages."""
    found: set[str] = set()
    for field, value in message.ListFields():
        for item in value if field.is_repeated else [value]:
            if isinstance(item, Message):
                found |= _texts(item)
            elif field.type == FieldDescriptor.TYPE_STRING:
                found.add(item)
    return found


def _bridges() -> set[str]:
    """The bridges of all networks, and those of their VLANs."""
    rows = tuples(Network.select(Network.bridge, Network.vlan).distinct(), tuple[str, int])
    return {name for bridge, vlan in rows for name in (bridge, bridge_of(bridge, vlan))}


def _own_names(account_id: str, names: set[str]) -> set[str]:
    """Those of these names that something of the account has, or a network that it may use."""
    found: set[str] = set()
    for model in (Vm, Volume, Snapshot, VmSnapshot, Backup, AffinityGroup):
        query = model.select(model.name).where(model.account == account_id).distinct()
        found.update(name for (name,) in tuples(query, tuple[str]) if name in names)
    networks = Network.select(Network.name).where(usable_by(account_id))
    found.update(name for (name,) in tuples(networks, tuple[str]) if name in names)
    return found


def concealed(error: OstlerError, conceal: Conceal) -> OstlerError:
    """The error as a member may see it."""
    about_hosts = ("host", "host_id", "probe", "bridge", "vlan")
    metadata = {key: conceal(value) for key, value in error.metadata.items() if key not in about_hosts}
    return type(error)(conceal(error.message), error.reason, metadata, error.violations)


@contextlib.contextmanager
def redact_errors_for(caller: Caller, request: Message) -> Iterator[None]:
    """Redacts errors raised inside to what the caller of this request may see."""
    try:
        yield
    except OstlerError as error:
        if caller.is_admin:
            raise
        raise concealed(error, concealer(caller.account_id, request)) from None
