"""The profile: where the control plane is and who one is to it."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ostler_common.errors import InvalidArgumentError

VARIABLE = "OSTLER_PROFILE"


class ProfileError(InvalidArgumentError):
    """The profile is absent (reason NO_PROFILE) or says nothing usable (BAD_PROFILE)."""


@dataclass(frozen=True)
class Profile:
    """A profile as read: the paths are absolute. control_address: "host:port", or several separated by commas."""

    path: Path
    control_address: str
    ca: Path
    certificate: Path
    key: Path


def default_path() -> Path:
    """~/.config/ostler/profile.toml."""
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "ostler" / "profile.toml"


def find() -> Path:
    """The profile that $OSTLER_PROFILE names, or else the default one."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else default_path()


def load(path: Path) -> Profile:
    """Reads a profile. Raises ProfileError with what to do when it is absent, wrong or names absent files."""
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        error = ProfileError(f"there is no profile at {path}", "NO_PROFILE")
        error.add_note("`ostler-control init` writes the first one, `ostler user create NAME` those of others.")
        error.add_note(f"Then pass --profile FILE, set {VARIABLE}, or put it there.")
        raise error from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ProfileError(f"cannot read the profile {path}: {e}", "BAD_PROFILE") from None
    texts: dict[str, str] = {}
    for name in ("control_address", "ca", "certificate", "key"):
        value = values.get(name)
        if not isinstance(value, str) or not value:
            raise ProfileError(f"the profile {path} lacks `{name}`", "BAD_PROFILE")
        texts[name] = value
    # An absolute path stays as it is.
    ca, certificate, key = (path.absolute().parent / texts[name] for name in ("ca", "certificate", "key"))
    for name, file in (("ca", ca), ("certificate", certificate), ("key", key)):
        if not os.access(file, os.R_OK):
            raise ProfileError(f"the profile {path} names {file} as `{name}`, which cannot be read", "BAD_PROFILE")
    return Profile(path, texts["control_address"], ca, certificate, key)


def text(control_address: str, ca: str, certificate: str, key: str) -> str:
    """What a profile's file holds."""
    values = {"control_address": control_address, "ca": ca, "certificate": certificate, "key": key}
    return "".join(f'{name} = "{value}"\n' for name, value in values.items())
