"""User data, to and from the wire."""

from __future__ import annotations

from collections.abc import Sequence

from ostler.control.v1 import userdata_pb2 as pb
from ostler_common.errors import bad_field

from ostler_control import labels
from ostler_control.api.convert.times import timestamp
from ostler_control.api.resolve import resolve
from ostler_control.caller import Caller
from ostler_control.keys import Keyring
from ostler_control.models import Account, UserData
from ostler_control.userdata import registered, variables
from ostler_control.userdata.merging import Policy
from ostler_control.userdata.rendering import Source
from ostler_control.userdata.seed import Seed
from ostler_control.userdata.vm_user_data import Given

_POLICIES = {
    pb.USER_DATA_POLICY_ALLOWOVERRIDE: Policy.ALLOW_OVERRIDE,
    pb.USER_DATA_POLICY_APPEND: Policy.APPEND,
    pb.USER_DATA_POLICY_DENYOVERRIDE: Policy.DENY_OVERRIDE,
}
_TO_POLICIES = {str(policy): number for number, policy in _POLICIES.items()}


def user_data(rows: Sequence[UserData], caller: Caller, data: bytes = b"") -> list[pb.UserData]:
    """data: the document, for the one row that it is of. Only admins see which templates link it."""
    templates = registered.linked_by(rows) if caller.is_admin else {}
    accounts = {row.id: row.name for row in Account.select().where(Account.id.in_([row.account_id for row in rows]))}
    own = labels.of_objects(UserData, [row.id for row in rows])
    return [
        pb.UserData(
            id=row.id,
            name=row.name,
            account_id=row.account_id,
            account_name=accounts.get(row.account_id, ""),
            format=row.format,
            size_bytes=row.size_bytes,
            variables=registered.declared_by(row),
            create_time=timestamp(row.create_time),
            data=data,
            template_names=templates.get(row.id, ()),
            labels=own.get(row.id, {}),
        )
        for row in rows
    ]


def policy(value: int, field: str = "user_data_policy") -> Policy | None:
    """None when it is not given. Raises InvalidArgumentError."""
    if value == pb.USER_DATA_POLICY_UNSPECIFIED:
        return None
    if value not in _POLICIES:
        raise bad_field(field, "is not a known policy")
    return _POLICIES[pb.UserDataPolicy.ValueType(value)]


def to_policy(word: str) -> pb.UserDataPolicy.ValueType:
    """The way back; "": unspecified."""
    return _TO_POLICIES[word] if word else pb.USER_DATA_POLICY_UNSPECIFIED


def given(message: pb.VmUserData, account_id: str, keys: Keyring, vm_name: str) -> Given:
    """What a VM of this account is given. Raises InvalidArgumentError, NotFoundError USER_DATA_NOT_FOUND."""
    if message.data and message.user_data:
        raise bad_field("user_data.data", "is not given together with registered user data", "BOTH_GIVEN")
    if message.variables and not message.data:
        raise bad_field("user_data.variables", "are declared by a document; give one", "REQUIRED")
    own: Source | None = None
    if message.user_data:
        row = resolve(UserData, message.user_data, "user_data.user_data", account_id=account_id)
        own = registered.load(row, keys)
    elif message.data:
        names = variables.check_declared(message.variables)
        own = Source(f"user data of VM {vm_name}", message.data, names)
    return Given(own, dict(message.values), tuple(message.ssh_keys))


def rendered(seed: Seed | None) -> pb.RenderUserDataResponse:
    """The files of a seed."""
    files = seed.files() if seed else {}
    return pb.RenderUserDataResponse(
        files=[pb.RenderUserDataResponse.File(name=name, content=content) for name, content in files.items()]
    )
