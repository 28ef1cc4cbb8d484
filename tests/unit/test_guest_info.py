"""What guests say of themselves is limited and cleaned; passwords and users are checked."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from ostler.types.v1.guest_pb2 import GuestInfo
from ostler_agent.hypervisors.guest import GuestFileSystem, GuestInterface, GuestUser
from ostler_agent.hypervisors.libvirt.guest_agent import from_answer
from ostler_agent.hypervisors.libvirt.xml.guest_channel import has_channel, keep_last
from ostler_common.errors import InvalidArgumentError
from ostler_common.guest_info import MAX_ITEMS, MAX_TEXT, MAX_TIME_S, clean
from ostler_common.guest_logins import check_keys, check_password, check_user
from ostler_common.secret import Secret
from ostler_common.ssh_keys import check_ssh_keys

LOGIN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDFKNkW1hDeS5fCDN0pNWrXHI6R8x8qKbZ4qiyc3wr0s anna@example.com"


def test_a_hostile_guest_is_cut_short_and_cannot_steer_a_terminal() -> None:
    said = GuestInfo(
        host_name="x" * 10_000,
        os_name="\x1b]0;owned\x07\nLinux",
        time=Timestamp(seconds=2**62, nanos=-5),
        file_systems=[GuestInfo.FileSystem(mount_point="\u202e/", total_bytes=-1)] * 1000,
        interfaces=[GuestInfo.Interface(name="eth0", addresses=["\x00"] * 1000)],
    )
    kept = clean(said)
    assert len(kept.host_name) == MAX_TEXT
    assert kept.os_name == "\\x1b]0;owned\\x07 Linux"
    assert (kept.time.seconds, kept.time.nanos) == (MAX_TIME_S, 0)
    assert len(kept.file_systems) == MAX_ITEMS
    assert (kept.file_systems[0].mount_point, kept.file_systems[0].total_bytes) == ("\\u202e/", 0)
    assert kept.interfaces[0].addresses == ["\\x00"] * MAX_ITEMS
    assert len(said.file_systems) == 1000, "the original is left alone"


def test_what_libvirt_makes_of_an_answer() -> None:
    answer: dict[str, str | int] = {
        "hostname": "web",
        "os.name": "Debian",
        "os.version": "12",
        "os.kernel-release": "6.1",
        "timezone.name": "UTC",
        "fs.count": 1,
        "fs.0.mountpoint": "/",
        "fs.0.fstype": "ext4",
        "fs.0.name": "vda1",
        "fs.0.total-bytes": 2**64 - 1,
        "fs.0.used-bytes": 5,
        "user.count": 1,
        "user.0.name": "root",
        "user.0.login-time": 1_700_000_000_123,
        "if.count": 10**9,
        "if.0.name": "eth0",
        "if.0.hwaddr": "52:54:00:00:00:01",
        "if.0.addr.count": 1,
        "if.0.addr.0.addr": "192.0.2.7",
        "if.0.addr.0.prefix": 24,
    }
    info = from_answer(answer, "7.2", 5)
    assert (info.host_name, info.os_name, info.agent_version, info.time_s) == ("web", "Debian", "7.2", 5)
    assert info.file_systems == (GuestFileSystem("/", "ext4", "vda1", 2**63 - 1, 5),)
    assert info.users == (GuestUser("root", "", 1_700_000_000),)
    assert info.interfaces[0] == GuestInterface("eth0", "52:54:00:00:00:01", ("192.0.2.7/24",))
    assert len(info.interfaces) == MAX_ITEMS


@pytest.mark.parametrize("user", ["", "a:b", "a\nb", "x" * 65])
def test_users_that_no_guest_has(user: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        check_user(user)
    assert error.value.reason == "INVALID_GUEST_USER"


@pytest.mark.parametrize("password", [b"", b"x" * 257, b"two\nlines", b"\xff"])
def test_passwords_that_no_guest_takes(password: bytes) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        check_password("root", Secret(password))
    assert error.value.reason == "INVALID_GUEST_PASSWORD"
    check_password("root", Secret("päss wörd".encode()))


def test_ssh_keys_are_public_keys() -> None:
    assert check_ssh_keys([f" {LOGIN}\n", LOGIN]) == (LOGIN,)
    for bad in ("-----BEGIN OPENSSH PRIVATE KEY-----", "ssh-ed25519", f"{LOGIN}\nssh-rsa AAAA", 'command="x" ' + LOGIN):
        with pytest.raises(InvalidArgumentError) as caught:
            check_ssh_keys([LOGIN, bad])
        assert (caught.value.reason, caught.value.metadata["field"]) == ("INVALID_SSH_KEY", "ssh_keys[1]")
    with pytest.raises(InvalidArgumentError) as none:
        check_keys("root", [])
    assert none.value.reason == "INVALID_SSH_KEY"


def test_a_channel_of_extra_configuration_replaces_ostler_s() -> None:
    one = "<channel type='unix'><source mode='bind'{}/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    other = "<channel type='unix'><target type='virtio' name='another'/></channel>"
    own = " path='/own'"
    domain = ElementTree.fromstring(f"<domain><devices>{one.format('')}{other}{one.format(own)}</devices></domain>")
    keep_last(domain)
    assert [source.get("path") for source in domain.findall("devices/channel/source")] == ["/own"]
    assert len(domain.findall("devices/channel")) == 2
    assert has_channel(domain)
