"""Users of the API, and their certificates."""

from __future__ import annotations

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from ostler_common.identity import Identity, Kind
from peewee import ColumnBase, IntegrityError

from ostler_control import events
from ostler_control.caller import Role
from ostler_control.catalog.names import check_user_name
from ostler_control.database import locked, transaction
from ostler_control.models import Account, Certificate, User, now, tuples
from ostler_control.trust import certificates
from ostler_control.trust.authority import Authority


def create(name: str, role: Role, account: Account, actor: str) -> User:
    """Creates a user, who has no certificate yet. Raises AlreadyExistsError (USER_EXISTS), InvalidArgumentError."""
    check_user_name("name", name)
    try:
        with transaction():
            user: User = User.create(name=name, role=str(role), account=account)
            events.done("user.create", actor, user, f"role {role}, account {account.name}")
    except IntegrityError as error:
        raise AlreadyExistsError(f"a user named {name} exists already", "USER_EXISTS", {"user": name}) from error
    return user


def issue(authority: Authority, user: User, csr_pem: bytes, actor: str, caller_serial: int | None = None) -> bytes:
    """Issues a certificate (PEM) to a user; earlier ones stay valid.

    caller_serial: of the caller's certificate; None for a local command.
    Raises InvalidArgumentError for a bad request, NotFoundError USER_NOT_FOUND, UnauthenticatedError
    CERTIFICATE_REVOKED, ResourceExhaustedError TOO_MANY_CERTIFICATES.
    """
    with transaction():
        _lock(user)
        if caller_serial is not None:
            certificates.check_good(caller_serial)
            certificates.check_few(identity(user))
        certificate_pem = authority.issue(csr_pem, identity(user))
        events.done("user.issue", actor, user)
    return certificate_pem


def revoke(user: User, actor: str) -> None:
    """Revokes every certificate of a user. Raises FailedPreconditionError LAST_ADMIN, NotFoundError USER_NOT_FOUND."""
    with transaction():
        _lock_with_admins(user)
        _keep_an_admin(user)
        count = certificates.revoke(identity(user))
        events.done("user.revoke", actor, user, f"{count} certificate(s) revoked")


def delete(user: User, actor: str) -> None:
    """Deletes a user and revokes their certificates. Raises FailedPreconditionError LAST_ADMIN, NotFoundError."""
    with transaction():
        _lock_with_admins(user)
        _keep_an_admin(user)
        certificates.revoke(identity(user))
        user.delete_instance()
        events.done("user.delete", actor, user)


def identity(user: User) -> Identity:
    """The identity in a user's certificates: the UUID, so that a later user of the same name is somebody else."""
    return Identity(Kind.USER, user.id)


def _lock(user: User, further: ColumnBase | None = None) -> None:
    """Keeps the user's row until the transaction ends, so that issuing and revoking take turns. further: which others
    as well; all in the same order, so that two who lock each other's do not wait for each other for ever."""
    mine = User.id == user.id
    rows = locked(User.select(User.id).where(mine if further is None else mine | further).order_by(User.id))
    if (user.id,) not in tuples(rows, tuple[str]):
        raise NotFoundError(f"user {user.name} was deleted", "USER_NOT_FOUND", {"user": user.name})


def _lock_with_admins(user: User) -> None:
    """Two admins who revoke each other at the same moment must not both succeed."""
    _lock(user, User.role == str(Role.ADMIN) if user.role == Role.ADMIN else None)


def _keep_an_admin(user: User) -> None:
    """With the rows of all admins locked."""
    if user.role != Role.ADMIN:
        return
    good = Certificate.select(Certificate.name).where(
        Certificate.kind == str(Kind.USER), Certificate.revoke_time.is_null(), Certificate.expire_time > now()
    )
    others = User.select().where(User.role == str(Role.ADMIN), User.id != user.id, User.id.in_(good))
    if not others.exists():
        raise FailedPreconditionError(
            f"user {user.name} is the last admin with a valid certificate (create another admin first)",
            "LAST_ADMIN",
            {"user": user.name},
        )
