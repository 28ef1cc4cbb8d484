"""ostler.control.v1.UserService."""

from __future__ import annotations

import grpc
from ostler.control.v1 import account_pb2 as pb
from ostler.control.v1 import account_pb2_grpc
from ostler_common.errors import PermissionDeniedError, bad_field
from ostler_common.identity import Kind

from ostler_control.api.caller import caller_of, serial_of
from ostler_control.api.convert import fleet
from ostler_control.api.convert.enums import from_enum
from ostler_control.api.labels import select
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import resolve
from ostler_control.api.session import with_sessions
from ostler_control.caller import Caller, Role
from ostler_control.models import Account, User
from ostler_control.trust import certificates, users
from ostler_control.trust.authority import Authority


@with_sessions
class UserService(account_pb2_grpc.UserServiceServicer):
    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def CreateUser(self, request: pb.CreateUserRequest, context: grpc.ServicerContext) -> pb.CreateUserResponse:
        caller = caller_of(context)
        role = Role(from_enum(pb.User.Role, "", request.role, "role"))
        account = _account(request.account, role, caller)
        self._authority.check_request(request.csr_pem)
        user = once(User, caller, request, lambda: users.create(request.name, role, account, caller.actor))
        return self._issue(user, request.csr_pem, context)

    def GetUser(self, request: pb.GetUserRequest, context: grpc.ServicerContext) -> pb.User:
        return _user(resolve(User, request.user, "user"))

    def ListUsers(self, request: pb.ListUsersRequest, context: grpc.ServicerContext) -> pb.ListUsersResponse:
        query = select(User.select(User, Account).join(Account), User, request.selector)
        found = page(query, User, request)
        rows = fleet.users(found.rows, certificates.expire_times(Kind.USER))
        return pb.ListUsersResponse(users=rows, next_page_token=found.next_page_token)

    def RevokeUser(self, request: pb.RevokeUserRequest, context: grpc.ServicerContext) -> pb.User:
        user = resolve(User, request.user, "user")
        users.revoke(user, caller_of(context).actor)
        return _user(user)

    def IssueUserCertificate(
        self, request: pb.IssueUserCertificateRequest, context: grpc.ServicerContext
    ) -> pb.CreateUserResponse:
        caller = caller_of(context)
        _check_self_or_admin(request.user, caller)
        return self._issue(resolve(User, request.user, "user"), request.csr_pem, context)

    def DeleteUser(self, request: pb.DeleteUserRequest, context: grpc.ServicerContext) -> pb.DeleteUserResponse:
        users.delete(resolve(User, request.user, "user"), caller_of(context).actor)
        return pb.DeleteUserResponse()

    def WhoAmI(self, request: pb.WhoAmIRequest, context: grpc.ServicerContext) -> pb.User:
        return _user(User.get_by_id(caller_of(context).id))

    def _issue(self, user: User, csr_pem: bytes, context: grpc.ServicerContext) -> pb.CreateUserResponse:
        actor = caller_of(context).actor
        certificate_pem = users.issue(self._authority, user, csr_pem, actor, serial_of(context))
        return pb.CreateUserResponse(
            user=_user(user), certificate_pem=certificate_pem, ca_pem=self._authority.fleet_pem
        )


def _account(ref: str, role: Role, caller: Caller) -> Account:
    """A member belongs to an account that was named; an admin acts for the caller's unless one was."""
    if not ref and role is Role.MEMBER:
        raise bad_field("account", "is required for a member: an id or a name", reason="REQUIRED")
    return resolve(Account, ref or caller.account_id, "account")


def _check_self_or_admin(ref: str, caller: Caller) -> None:
    if not caller.is_admin and ref not in (caller.id, caller.name):
        raise PermissionDeniedError("members may renew only their own certificate; ask an admin", "NOT_YOURSELF")


def _user(row: User) -> pb.User:
    return fleet.users([row], certificates.expire_times(Kind.USER))[0]
