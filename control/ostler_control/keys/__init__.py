"""Passphrases of encrypted volumes: created, sealed, and opened only to be sent to a host."""

from ostler_control.keys.file import FileProvider
from ostler_control.keys.key_file import create_key_file
from ostler_control.keys.opening import open_provider
from ostler_control.keys.passphrases import Keyring
from ostler_control.keys.providers import KeyProvider

__all__ = ["FileProvider", "KeyProvider", "Keyring", "create_key_file", "open_provider"]
