"""Join tokens: given out once, used once, kept as a digest only."""

from __future__ import annotations

import datetime
import hashlib
import secrets

from ostler_common.errors import UnauthenticatedError

from ostler_control.models import JoinToken, now

_KEEP_ENDED = datetime.timedelta(days=1)


def create(cluster_id: str, ttl: datetime.timedelta, host_id: str = "") -> tuple[str, datetime.datetime]:
    """A new secret and its end (UTC, without zone). host_id: the host that is to rejoin as itself, "" for a new one."""
    secret, end = secrets.token_urlsafe(32), now() + ttl
    JoinToken.delete().where(JoinToken.expire_time < now() - _KEEP_ENDED).execute()
    JoinToken.create(digest=_digest(secret), cluster_id=cluster_id, host_id=host_id, expire_time=end)
    return secret, end


def redeem(secret: str) -> JoinToken:
    """Uses a token up; belongs in the transaction that admits the host, so that a failed join leaves it good.

    Raises UnauthenticatedError (BAD_TOKEN): unknown, used, or over; which of them is not for strangers to know.
    """
    digest = _digest(secret)
    used = (
        JoinToken.update(use_time=now())
        .where(JoinToken.digest == digest, JoinToken.use_time.is_null(), JoinToken.expire_time > now())
        .execute()
    )
    if used != 1:
        raise UnauthenticatedError(
            "the join token is not good: unknown, used already, or over (make another with `ostler host token`)",
            "BAD_TOKEN",
        )
    return JoinToken.get(JoinToken.digest == digest)


def withdraw(host_id: str) -> None:
    """Makes the unused tokens of a host useless."""
    JoinToken.delete().where(JoinToken.host_id == host_id).execute()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
