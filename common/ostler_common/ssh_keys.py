"""Which public SSH keys guests are given: the agent and the control plane both check it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ostler_common.errors import bad_field

MAX_SSH_KEYS = 50
_MAX_KEY_LENGTH = 16_384
_SSH_KEY = re.compile(r"(ssh-(rsa|dss|ed25519)|ecdsa-sha2-nistp\d+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/]{16,}={0,2}( [ -~]*)?")


def check_ssh_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """The keys, each once, without surrounding space; raises InvalidArgumentError INVALID_SSH_KEY."""
    bare = tuple(dict.fromkeys(key.strip() for key in keys))
    if len(bare) > MAX_SSH_KEYS:
        raise bad_field("ssh_keys", f"a VM gets at most {MAX_SSH_KEYS} SSH keys", "INVALID_SSH_KEY")
    for number, key in enumerate(bare):
        if len(key) > _MAX_KEY_LENGTH or not _SSH_KEY.fullmatch(key):
            raise bad_field(
                f"ssh_keys[{number}]",
                "must be a public key, as in id_ed25519.pub: type, key, comment",
                "INVALID_SSH_KEY",
            )
    return bare
