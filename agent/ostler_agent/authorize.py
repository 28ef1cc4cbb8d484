"""Who may call the agent: only the control plane."""

from __future__ import annotations

from ostler_common import pki
from ostler_common.errors import FailedPreconditionError, PermissionDeniedError, UnauthenticatedError
from ostler_common.identity import Identity, Kind
from ostler_common.server import HEALTH, REFLECTION
from ostler_common.tls import Peer

from ostler_agent.credentials import REJOIN_HINT, CredentialsStore

# Service -> the kinds of identity that may call it. Nobody may call a service that is not listed.
SERVICES: dict[str, frozenset[Kind]] = dict.fromkeys(
    (
        "ostler.agent.v1.AdoptionService",
        "ostler.agent.v1.ConversionService",
        "ostler.agent.v1.HostService",
        "ostler.agent.v1.JobService",
        "ostler.agent.v1.MigrationService",
        "ostler.agent.v1.PoolService",
        "ostler.agent.v1.RemoteKvmService",
        "ostler.agent.v1.VmService",
        "ostler.agent.v1.VolumeService",
        HEALTH,
        REFLECTION,
    ),
    frozenset({Kind.CONTROL}),
)


class AgentAuthorizer:
    """The agent's `Authorize`: the table and the revocation list. Refuses all calls once the certificate expired."""

    def __init__(self, store: CredentialsStore) -> None:
        self._store = store

    def __call__(self, peer: Peer, method: str) -> Identity:
        """Raises UnauthenticatedError, PermissionDeniedError; FailedPreconditionError (CERTIFICATE_EXPIRED)."""
        if peer.identity is None:
            raise UnauthenticatedError("this call needs a certificate from the fleet's CA", "NO_CERTIFICATE")
        _, service, _ = method.split("/", 2)
        if peer.identity.kind not in SERVICES.get(service, frozenset()):
            raise PermissionDeniedError(
                f"{peer.identity.uri()} may not call {method}: only the control plane may call an agent", "CONTROL_ONLY"
            )
        credentials = self._store.load()
        if credentials.expired():
            raise FailedPreconditionError(
                f"the host's certificate has ended: {REJOIN_HINT.format(host=credentials.host_id)}",
                "CERTIFICATE_EXPIRED",
            )
        if peer.serial in pki.revoked_serials(credentials.crl_pem):
            raise PermissionDeniedError("the caller's certificate is revoked", "CERTIFICATE_REVOKED")
        return peer.identity
