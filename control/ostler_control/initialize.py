"""What `ostler-control init` does: creates everything that the control plane needs to run.

Each step creates what is missing, so that a second run completes a first one. No key is ever overwritten.
"""

from __future__ import annotations

import fcntl
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ostler.client import profile
from ostler_common import pki
from ostler_common.errors import FailedPreconditionError, NotFoundError
from ostler_common.identity import Identity, Kind

from ostler_control import database, events
from ostler_control.caller import Role
from ostler_control.catalog.names import check_user_name
from ostler_control.config import ControlConfig
from ostler_control.keys import create_key_file
from ostler_control.models import Account, Certificate, Passphrase, User
from ostler_control.operations import replicas
from ostler_control.state_dir import StateDir
from ostler_control.trust import authority, users
from ostler_control.trust.authority import Authority
from ostler_control.trust.renewal import renew_control

_SERVICE_USER = "ostler"


def initialize(config: ControlConfig, admin: str, profile_path: Path) -> Iterator[str]:
    """Does it, and tells line by line what was created and what existed.

    admin: name of the first admin user and of the account; profile_path: where to write that user's CLI profile.
    Raises InvalidArgumentError for a bad name, FailedPreconditionError when something in the way is another fleet's.
    """
    check_user_name("admin", admin)
    state = config.state
    _make_private(state.path)
    with _locked(state), _database(config):
        applied = database.migrate()
        _check_keys(state)
        yield f"database: {'brought up to date' if applied else 'is up to date'} ({_shown(config.database)})"
        yield from _files(state, config.key_provider)
        ca = Authority.load(state, config.lifetimes)
        _write_if_other(state.fleet_trust, ca.fleet_pem)
        _write_if_other(state.callers_trust, ca.callers_pem)
        _check_profile(profile_path, state)
        made = renew_control(state, ca)
        yield f"control plane's certificate: {'made' if made else 'is there'}"
        yield from _admin(admin)
        yield _profile(ca, admin, replicas.addresses(config.main_address), profile_path)


def write_user_profile(config: ControlConfig, name: str, profile_path: Path) -> str:
    """Issues a user a new certificate and writes a CLI profile with it; returns what to print.

    Raises NotFoundError when there is no such user, FailedPreconditionError when the profile is there already.
    """
    if profile_path.exists():
        raise FailedPreconditionError(f"{profile_path} exists already (give another --profile)", "PROFILE_EXISTS")
    ca = Authority.load(config.state, config.lifetimes)
    with _database(config):
        if not User.select().where(User.name == name).exists():
            known = ", ".join(row.name for row in User.select(User.name).order_by(User.name).limit(20))
            raise NotFoundError(f"there is no user {name} (there are {known or 'none'})", "USER_NOT_FOUND")
        return _profile(ca, name, replicas.addresses(config.main_address), profile_path)


@contextmanager
def _database(config: ControlConfig) -> Iterator[None]:
    """A session; afterwards all files in the state directory belong to the service."""
    database.connect(config.database)
    try:
        with database.session():
            yield
    finally:
        database.disconnect()
        give_to_service(config.state_dir)


def _check_keys(state: StateDir) -> None:
    """A database in use is never given new keys: no certificate and no volume would be good any more."""
    sealed = Passphrase.select().where(Passphrase.kek.startswith("file:")).exists()
    issued = Certificate.select().exists()
    needed = [*((state.fleet_ca, state.users_ca) if issued else ()), *((state.kek,) if sealed else ())]
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        raise FailedPreconditionError(
            f"the database is in use, and {' and '.join(missing)} that belong to it are missing (bring them back from "
            "a backup, or from another replica's state directory; if systemd-creds has sealed them, run this by "
            "systemd-run with LoadCredentialEncrypted=)",
            "KEYS_MISSING",
        )


def _files(state: StateDir, key_provider: str) -> Iterator[str]:
    made = authority.create_ca(state.fleet_ca, "Ostler fleet CA")
    yield f"fleet CA: {'made' if made else 'is there'} ({state.fleet_ca})"
    made = authority.create_ca(state.users_ca, "Ostler users CA")
    yield f"users CA: {'made' if made else 'is there'} ({state.users_ca})"
    there = state.kek.exists()
    if key_provider == "file" and not there:
        create_key_file(state.kek)
    if key_provider == "vault":
        yield "key-encryption key: Vault has it"
    else:
        yield f"key-encryption key: {'is there' if there else 'made'} ({state.kek}); keep a copy in a safe place"
    _make_private(state.templates)


def _admin(name: str) -> Iterator[str]:
    with database.transaction():
        admins = [user.name for user in User.select(User.name).where(User.role == str(Role.ADMIN)).order_by(User.name)]
        if name in admins:
            yield f"admin {name}: is there"
            return
        if admins:
            raise FailedPreconditionError(
                f"there is an admin already ({', '.join(admins)}): `ostler user create` makes more, "
                f"`ostler-control user-certificate {admins[0]}` gives a lost profile back",
                "ADMIN_EXISTS",
            )
        account = Account.get_or_none(Account.name == name) or Account.create(name=name)
        users.create(name, Role.ADMIN, account, events.SYSTEM)
    yield f"admin {name}: made, in account {name}"


def _profile(authority: Authority, name: str, control_address: str, path: Path) -> str:
    """Writes certificate, key, CA and profile, the profile last: where it is, all is."""
    if path.exists():
        return f"profile: is there ({path})"
    user = User.get(User.name == name)
    key_pem, csr_pem = pki.new_key_and_csr(Identity(Kind.USER, name))
    certificate_pem = users.issue(authority, user, csr_pem, events.SYSTEM)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pair, ca = path.with_name(f"{path.stem}-{name}.pem"), path.with_name(f"{path.stem}-ca.pem")
    pki.write_private(pair, key_pem + certificate_pem)
    pki.write_public(ca, authority.fleet_pem)
    pki.write_private(path, profile.text(control_address, ca.name, pair.name, pair.name).encode())
    return f"profile: written ({path}), for user {name} at {control_address}"


def _check_profile(path: Path, state: StateDir) -> None:
    """A profile of another fleet is not taken for ours, and not overwritten."""
    if not path.exists():
        return
    found = profile.load(path)
    if found.ca.read_bytes() != state.fleet_trust.read_bytes():
        raise FailedPreconditionError(
            f"{path} is another fleet's profile (give --profile FILE, or move it away)", "PROFILE_EXISTS"
        )


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


@contextmanager
def _locked(state: StateDir) -> Iterator[None]:
    with (state.path / ".init.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_if_other(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        pki.write_public(path, data)


def _shown(url: str) -> str:
    """A database's URL without a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def give_to_service(directory: Path) -> None:
    """As root: gives the directory and its files to the user whom the service runs as."""
    if os.geteuid() != 0:
        return
    stat = directory.stat()
    owner, group = stat.st_uid, stat.st_gid
    if owner == 0 and directory == ControlConfig.model_fields["state_dir"].default:
        try:
            entry = pwd.getpwnam(_SERVICE_USER)
        except KeyError:
            return
        owner, group = entry.pw_uid, entry.pw_gid
    if owner != 0:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, owner, group, follow_symlinks=False)
