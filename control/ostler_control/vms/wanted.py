"""What a new VM is to be, and the checks that need no host: names, sizes, network interfaces, supported functions."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ostler_common.errors import AlreadyExistsError, bad_field
from ostler_common.hypervisors import Function

from ostler_control import labels, networks
from ostler_control.catalog.firmware import SECURE_BOOT, is_uefi
from ostler_control.catalog.names import check_name
from ostler_control.hypervisors.supported import check_supported
from ostler_control.models import (
    Account,
    AffinityGroup,
    Cluster,
    Host,
    Iso,
    Network,
    Nic,
    Pool,
    ServiceOffering,
    Template,
    Zone,
)
from ostler_control.templates import store as template_store
from ostler_control.userdata import vm_user_data
from ostler_control.userdata.seed import DHCP, Addressing, check_addressing
from ostler_control.userdata.vm_user_data import Given
from ostler_control.vms import details, extra_configs, isos
from ostler_control.vms.create_facts import Facts, find_facts
from ostler_control.volumes.new_volume import MAX_SIZE_BYTES, MIB

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
MODELS = ("virtio", "e1000e", "e1000", "rtl8139")
MAX_NICS = 16


@dataclass(frozen=True)
class NewNic:
    """A network interface of a new VM. mac "": generated; model "": virtio."""

    network: Network
    mac: str = ""
    model: str = ""
    addressing: Addressing = DHCP


@dataclass(frozen=True)
class NewVm:
    """A VM to create. root_size_bytes 0: the template's; zone, cluster, host, pool None: placement chooses.

    template None: the root disk is empty, and the guest is installed from `isos`; firmware: only then, else the
    template's; tpm: it gets an emulated TPM, as it does where its template says so.
    """

    name: str
    account: Account
    template: Template | None
    offering: ServiceOffering
    root_size_bytes: int = 0
    zone: Zone | None = None
    cluster: Cluster | None = None
    host: Host | None = None
    pool: Pool | None = None
    nics: Sequence[NewNic] = ()
    stopped: bool = False
    affinity_groups: Sequence[AffinityGroup] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    user_data: Given = field(default_factory=Given)
    isos: Sequence[Iso] = ()
    firmware: str = ""
    tpm: bool = False

    @property
    def boot_firmware(self) -> str:
        """The firmware that it boots with."""
        return self.template.firmware if self.template else self.firmware or "bios"

    @property
    def root_name(self) -> str:
        """The root disk's name, unless the account has a volume of that name."""
        return f"{self.name[:54]}-root"


@dataclass(frozen=True)
class Checked:
    """A request that passed its checks: the size of the root disk, and the interfaces with MAC and model filled in.

    seed: whether its guest is given anything, see `vm_user_data.is_needed`; tpm: whether it gets one; facts: what was
    read of its account, template and offering.
    """

    root_size_bytes: int
    nics: Sequence[NewNic]
    seed: bool
    tpm: bool
    facts: Facts


def check(wanted: NewVm) -> Checked:
    """Checks everything about a new VM that does not depend on free capacity; changes nothing.

    Raises InvalidArgumentError, AlreadyExistsError VM_EXISTS or MAC_TAKEN,
    FailedPreconditionError NETWORK_NOT_ALLOWED, and what `check_supported` and
    `extra_configs.of_offering` raise.
    """
    check_name("name", wanted.name)
    template_id = wanted.template.id if wanted.template else ""
    facts = find_facts(wanted.account.id, wanted.name, wanted.root_name, template_id, wanted.offering.id)
    if facts.name_taken:
        raise vm_exists(wanted.account, wanted.name)
    _check_isos(wanted)
    size_bytes = _root_size(wanted)
    details.check_new(wanted.details)
    labels.check_new("labels", wanted.labels)
    functions = _functions(wanted, facts)
    check_supported(wanted.template, functions, host=wanted.host, cluster=wanted.cluster, zone=wanted.zone)
    if wanted.template:
        template_store.check_encryption(wanted.template, wanted.offering.encrypt_root)
    return Checked(
        size_bytes,
        check_nics(wanted.nics, wanted.account),
        seed=Function.USER_DATA in functions,
        tpm=Function.TPM in functions,
        facts=facts,
    )


def vm_exists(account: Account, name: str) -> AlreadyExistsError:
    """The error for a name that the account uses already."""
    return AlreadyExistsError(f"account {account.name} has a VM named {name} already; choose another name", "VM_EXISTS")


def _functions(wanted: NewVm, facts: Facts) -> list[Function]:
    """The functions that the VM needs of its hypervisor beside running it."""
    addressing = [nic.addressing for nic in wanted.nics]
    needs = {
        Function.UEFI: is_uefi(wanted.boot_firmware),
        Function.SECURE_BOOT: wanted.boot_firmware == SECURE_BOOT,
        Function.TPM: wanted.tpm or facts.template_tpm,
        Function.VOLUME_ENCRYPTION: wanted.offering.encrypt_root,
        Function.NICS: bool(wanted.nics),
        Function.NIC_FILTER: any(nic.network.spoof_filter for nic in wanted.nics),
        Function.DIRECT_DOWNLOAD: bool(wanted.template and wanted.template.url),
        Function.EXTRA_CONFIG: facts.extra_config
        and not extra_configs.of_offering(wanted.offering.id, wanted.offering.memory_bytes).is_empty,
        Function.ISO: bool(wanted.isos),
        Function.USER_DATA: facts.template_user_data or vm_user_data.is_needed(wanted.user_data, None, addressing),
    }
    return [function for function, needed in needs.items() if needed]


def _check_isos(wanted: NewVm) -> None:
    """Either a template, or ISO images and the size of the root disk."""
    if wanted.template and (wanted.isos or wanted.firmware):
        field = "isos" if wanted.isos else "firmware"
        raise bad_field(field, "must be empty with a template", "TEMPLATE_AND_ISO")
    if not wanted.template and not wanted.isos:
        raise bad_field(
            "template", "is required: an id or a name (or ISO images, with a size of the root disk)", "REQUIRED"
        )
    if len({iso.id for iso in wanted.isos}) < len(wanted.isos) or len(wanted.isos) > isos.MAX_DRIVES:
        raise bad_field("isos", f"must be at most {isos.MAX_DRIVES}, each once", "TOO_MANY_ISOS")
    if wanted.isos and not wanted.root_size_bytes:
        raise bad_field("root_size_bytes", "is required with ISO images: the size of the empty root disk", "REQUIRED")


def _root_size(wanted: NewVm) -> int:
    min_bytes = -(-wanted.template.virtual_size_bytes // MIB) * MIB if wanted.template else MIB
    size_bytes = wanted.root_size_bytes or min_bytes
    if size_bytes % MIB or size_bytes > MAX_SIZE_BYTES:
        raise bad_field(
            "root_size_bytes", f"must be a multiple of 1 MiB, at most {MAX_SIZE_BYTES >> 40} TiB", "INVALID_SIZE"
        )
    if size_bytes < min_bytes:
        raise bad_field(
            "root_size_bytes",
            f"must be at least {min_bytes}"
            + (f", the size of template {wanted.template.name}" if wanted.template else ""),
            "INVALID_SIZE",
        )
    return size_bytes


def check_nics(wanted: Sequence[NewNic], account: Account) -> list[NewNic]:
    """The network interfaces of a new VM with MAC and model filled in.

    Raises InvalidArgumentError; AlreadyExistsError MAC_TAKEN; FailedPreconditionError NETWORK_NOT_ALLOWED.
    """
    check_count("nics", len(wanted))
    nics: list[NewNic] = []
    for number, nic in enumerate(wanted):
        path = f"nics[{number}]"
        checked = check_nic(path, nic, account)
        if checked.mac in [other.mac for other in nics]:
            raise mac_taken(path, checked.mac)
        nics.append(checked)
    return nics


def check_nic(path: str, nic: NewNic, account: Account) -> NewNic:
    """One network interface with MAC and model filled in. path: the request's field that has it.

    Raises like `check_nics`.
    """
    networks.check_allowed(nic.network, account)
    if nic.model and nic.model not in MODELS:
        raise bad_field(f"{path}.model", f"must be one of {', '.join(MODELS)}", "INVALID_NIC_MODEL")
    mac = nic.mac.lower() or new_mac()
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1:
        raise bad_field(f"{path}.mac", "must be a unicast MAC address such as 52:54:00:12:34:56", "INVALID_MAC")
    if Nic.select().where(Nic.mac == mac).exists():
        raise mac_taken(path, mac)
    check_addressing(nic.addressing, path)
    return NewNic(nic.network, mac, nic.model or "virtio", nic.addressing)


def check_count(path: str, count: int) -> None:
    """Whether a VM may have this many network interfaces. Raises InvalidArgumentError TOO_MANY_NICS."""
    if count > MAX_NICS:
        raise bad_field(path, f"a VM has at most {MAX_NICS} network interfaces", "TOO_MANY_NICS")


def mac_taken(path: str, mac: str) -> AlreadyExistsError:
    """The error for a MAC address that another network interface has."""
    return AlreadyExistsError(f"{path}.mac: another network interface has the address {mac}", "MAC_TAKEN")


def new_mac() -> str:
    """A MAC address that no network interface of the fleet has."""
    while True:
        mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
        if not Nic.select().where(Nic.mac == mac).exists():
            return mac
