"""Who may call the agent: the control plane, and nobody else."""

from __future__ import annotations

from ostler_common import pki
from ostler_common.errors import FailedPreconditionError, PermissionDeniedError, UnauthenticatedError
from ostler_common.identity import Identity, Kind
from ostler_common.server import HEALTH, REFLECTION
from ostler_common.tls import Peer

from ostler_agent.papers import HOW_TO_REJOIN, PapersStore

# Service -> the kinds that may call it. What is not in here is for nobody.
SERVICES: dict[str, frozenset[Kind]] = dict.fromkeys(
    (
        "ostler.agent.v1.HostService",
        "ostler.agent.v1.JobService",
        "ostler.agent.v1.MigrationService",
        "ostler.agent.v1.PoolService",
        "ostler.agent.v1.VmService",
        "ostler.agent.v1.VolumeService",
        HEALTH,
        REFLECTION,
    ),
    frozenset({Kind.CONTROL}),
)


class AgentAuthorizer:
    """The agent's `Authorize`: the table, the revocation list, and nothing at all once the host's papers have ended."""

    def __init__(self, store: PapersStore) -> None:
        self._store = store

    def __call__(self, peer: Peer, method: str) -> Identity:
        """Raises UnauthenticatedError, PermissionDeniedError; FailedPreconditionError (CERTIFICATE_EXPIRED)."""
        if peer.identity is None:
            raise UnauthenticatedError("this call needs a certificate of the fleet", "NO_CERTIFICATE")
        _, service, _ = method.split("/", 2)
        if peer.identity.kind not in SERVICES.get(service, frozenset()):
            raise PermissionDeniedError(
                f"{peer.identity.uri()} may not call {method}: an agent obeys the control plane only", "CONTROL_ONLY"
            )
        papers = self._store.load()
        if papers.expired():
            raise FailedPreconditionError(
                f"the host's certificate has ended: {HOW_TO_REJOIN.format(host=papers.host_id)}", "CERTIFICATE_EXPIRED"
            )
        if peer.serial in pki.revoked_serials(papers.crl_pem):
            raise PermissionDeniedError("the caller's certificate is revoked", "CERTIFICATE_REVOKED")
        return peer.identity
