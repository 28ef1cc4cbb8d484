"""The control plane's own certificate: issued by init, renewed while it runs."""

from __future__ import annotations

import datetime

from ostler_common import pki
from ostler_common.identity import Identity, Kind

from ostler_control.database import transaction
from ostler_control.models import new_id
from ostler_control.state_dir import StateDir
from ostler_control.trust.authority import Authority


def renew_control(state: StateDir, authority: Authority) -> bool:
    """Issues the control plane a certificate if it has none, or if less than a third of its lifetime is left.

    Returns whether it did.
    """
    identity = Identity(Kind.CONTROL, new_id())
    if state.control.exists():
        pem = state.control.read_bytes()
        if datetime.datetime.now(datetime.UTC) < pki.renew_at(pem):
            return False
        identity = pki.identity_and_serial(pki.split_pem(pem)[0])[0] or identity
    key, csr = pki.new_key_and_csr(identity)
    with transaction():
        certificate = authority.issue(csr, identity)
    pki.write_private(state.control, key + certificate)
    return True
