"""Join tokens: shown once, used once, stored as a digest only."""

from __future__ import annotations

import datetime
import hashlib
import secrets

from ostler_common.errors import UnauthenticatedError

from ostler_control.models import JoinToken, now

_KEEP_ENDED = datetime.timedelta(days=1)


def create(
    cluster_id: str, ttl: datetime.timedelta, host_id: str = "", host_name: str = "", address: str = ""
) -> tuple[str, datetime.datetime]:
    """A new secret and when it expires (UTC, without zone).

    host_id: the host that may rejoin, "" for a new host; host_name, address: what the host must be called and reached
    at, "" when it says so itself.
    """
    secret, end = secrets.token_urlsafe(32), now() + ttl
    JoinToken.delete().where(JoinToken.expire_time < now() - _KEEP_ENDED).execute()
    JoinToken.create(
        digest=_digest(secret),
        cluster_id=cluster_id,
        host_id=host_id,
        host_name=host_name,
        address=address,
        expire_time=end,
    )
    return secret, end


def redeem(secret: str) -> JoinToken:
    """Uses a token up. Call it in the transaction that admits the host, so that a failed join leaves the token valid.

    Raises UnauthenticatedError (BAD_TOKEN) for a token that is unknown, used or expired; strangers do not learn which.
    """
    digest = _digest(secret)
    used = (
        JoinToken.update(use_time=now())
        .where(JoinToken.digest == digest, JoinToken.use_time.is_null(), JoinToken.expire_time > now())
        .execute()
    )
    if used != 1:
        raise UnauthenticatedError(
            "the join token is not valid: unknown, used or expired (create another with `ostler host token`)",
            "BAD_TOKEN",
        )
    return JoinToken.get(JoinToken.digest == digest)


def withdraw(host_id: str) -> None:
    """Deletes the tokens of a host."""
    JoinToken.delete().where(JoinToken.host_id == host_id).execute()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
