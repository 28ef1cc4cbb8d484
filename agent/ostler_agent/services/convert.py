"""Converts protobuf to and from the agent's own values, and refuses bad input by field."""

from __future__ import annotations

import re
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address

from ostler.agent.v1 import pool_pb2
from ostler.agent.v1 import vm_pb2 as agent_vm_pb2
from ostler.agent.v1 import volume_pb2 as agent_volume_pb2
from ostler.types.v1 import job_pb2, vm_pb2, volume_pb2
from ostler_common import io_limits, xml_fragment
from ostler_common.bridges import bridge_of
from ostler_common.driver_details import MAX_FIELDS, MAX_LENGTH
from ostler_common.errors import bad_field
from ostler_common.secret import Secret

from ostler_agent.direct_download import DirectSource, checked_url
from ostler_agent.hypervisors.base import SeenAddress
from ostler_agent.looks import Look
from ostler_agent.pools import Pool, PoolSpec
from ostler_agent.pools.objects import Part
from ostler_agent.spec import (
    MAX_CDROMS,
    MAX_TPM_BYTES,
    MAX_VARIABLES_BYTES,
    Cdrom,
    CpuModel,
    DiskFormat,
    DiskSpec,
    ExtraConfig,
    Firmware,
    FirmwareCopy,
    FirmwareState,
    Freeze,
    Key,
    KeyUse,
    NicSpec,
    PauseReason,
    PowerState,
    Provisioning,
    RemoteObject,
    VhostUser,
    VmInfo,
    VmSpec,
    VolumeInfo,
    VolumeRef,
)
from ostler_agent.templates import TemplateSource
from ostler_agent.volumes.volumes import VolumeDigest

DEFAULT_ITER_TIME_MS = 10
MAX_FRAGMENTS = 64
MAX_VLAN, MAX_MTU = 4094, 65535
MAX_SEED_BYTES = 4 << 20
_CPU_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
MAX_CPUS_OF_CLUSTER, MAX_CPU_FEATURES = 64, 500
_MACHINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_URL = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SEED_FILES = {"meta-data", "network-config", "user-data", "vendor-data"}

_FORMATS = {
    volume_pb2.DISK_FORMAT_QCOW2: DiskFormat.QCOW2,
    volume_pb2.DISK_FORMAT_RAW: DiskFormat.RAW,
}
_PROVISIONING = {
    volume_pb2.PROVISIONING_UNSPECIFIED: Provisioning.THIN,
    volume_pb2.PROVISIONING_THIN: Provisioning.THIN,
    volume_pb2.PROVISIONING_SPARSE: Provisioning.SPARSE,
    volume_pb2.PROVISIONING_THICK: Provisioning.THICK,
}
_FIRMWARE = {
    vm_pb2.FIRMWARE_UNSPECIFIED: Firmware.BIOS,
    vm_pb2.FIRMWARE_BIOS: Firmware.BIOS,
    vm_pb2.FIRMWARE_UEFI: Firmware.UEFI,
    vm_pb2.FIRMWARE_UEFI_SECURE_BOOT: Firmware.UEFI_SECURE_BOOT,
}
_VHOST_USER = {
    vm_pb2.ExtraConfig.VHOST_USER_UNSPECIFIED: None,
    vm_pb2.ExtraConfig.VHOST_USER_CLIENT: VhostUser.CLIENT,
    vm_pb2.ExtraConfig.VHOST_USER_SERVER: VhostUser.SERVER,
}
POWER_STATES = {
    PowerState.STOPPED: vm_pb2.POWER_STATE_STOPPED,
    PowerState.RUNNING: vm_pb2.POWER_STATE_RUNNING,
    PowerState.PAUSED: vm_pb2.POWER_STATE_PAUSED,
    PowerState.CRASHED: vm_pb2.POWER_STATE_CRASHED,
    PowerState.ABSENT: vm_pb2.POWER_STATE_ABSENT,
}
_PAUSE_REASONS = {
    None: vm_pb2.PAUSE_REASON_UNSPECIFIED,
    PauseReason.NO_SPACE: vm_pb2.PAUSE_REASON_NO_SPACE,
    PauseReason.IO_ERROR: vm_pb2.PAUSE_REASON_IO_ERROR,
}
_TO_FORMATS = {value: key for key, value in _FORMATS.items()}


def uuid_field(value: str, path: str) -> str:
    """Returns the UUID in canonical form. Raises InvalidArgumentError."""
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise bad_field(path, "must be a UUID") from None


def size_field(value: int, path: str) -> int:
    """A number of bytes. Raises InvalidArgumentError."""
    if value < 0:
        raise bad_field(path, "must not be negative")
    return value


def disk_format(value: volume_pb2.DiskFormat.ValueType, path: str) -> DiskFormat:
    """Raises InvalidArgumentError."""
    if value not in _FORMATS:
        raise bad_field(path, "must be DISK_FORMAT_QCOW2 or DISK_FORMAT_RAW")
    return _FORMATS[value]


def to_format(value: DiskFormat) -> volume_pb2.DiskFormat.ValueType:
    return _TO_FORMATS[value]


def firmware(value: vm_pb2.Firmware.ValueType, path: str) -> Firmware:
    """Raises InvalidArgumentError."""
    if value not in _FIRMWARE:
        raise bad_field(path, "is not a known firmware")
    return _FIRMWARE[value]


def provisioning(value: volume_pb2.Provisioning.ValueType, path: str) -> Provisioning:
    """Raises InvalidArgumentError."""
    if value not in _PROVISIONING:
        raise bad_field(path, "is not a valid provisioning")
    return _PROVISIONING[value]


def key(message: volume_pb2.VolumeKey, path: str) -> Key:
    """Converts a key; its passphrase is optional. Raises InvalidArgumentError."""
    try:
        message.passphrase.decode()
    except UnicodeDecodeError:
        raise bad_field(f"{path}.passphrase", "must be UTF-8 text") from None
    if message.iter_time_ms < 0:
        raise bad_field(f"{path}.iter_time_ms", "must not be negative")
    return Key(
        key_id=uuid_field(message.key_id, f"{path}.key_id"),
        passphrase=Secret(message.passphrase) if message.passphrase else None,
        iter_time_ms=message.iter_time_ms or DEFAULT_ITER_TIME_MS,
    )


def volume_ref(message: volume_pb2.VolumeRef, path: str = "volume") -> VolumeRef:
    """Raises InvalidArgumentError."""
    return VolumeRef(
        pool_id=uuid_field(message.pool_id, f"{path}.pool_id"),
        volume_id=uuid_field(message.volume_id, f"{path}.volume_id"),
        format=disk_format(message.format, f"{path}.format"),
        key=key(message.key, f"{path}.key") if message.HasField("key") else None,
        remote=remote_object(message.remote, f"{path}.remote") if message.HasField("remote") else None,
    )


def remote_object(message: volume_pb2.RemoteObject, path: str) -> RemoteObject:
    """Raises InvalidArgumentError."""
    if not _SHA256.fullmatch(message.sha256):
        raise bad_field(f"{path}.sha256", "must be 64 lower-case hex digits")
    return RemoteObject(
        url=_signed_url(message.url, f"{path}.url"),
        ca_pem=message.ca_pem,
        size_bytes=size_field(message.size_bytes, f"{path}.size_bytes"),
        sha256=message.sha256,
    )


def upload_part(message: agent_volume_pb2.UploadPart, path: str) -> Part:
    """Raises InvalidArgumentError."""
    if message.size_bytes < 1:
        raise bad_field(f"{path}.size_bytes", "must be 1 or more")
    return Part(
        url=_signed_url(message.url, f"{path}.url"),
        offset=size_field(message.offset, f"{path}.offset"),
        size_bytes=message.size_bytes,
    )


def _signed_url(text: str, path: str) -> Secret:
    if len(text) > _MAX_URL:
        raise bad_field(path, f"must be at most {_MAX_URL} characters")
    checked_url(text, path)
    return Secret(text.encode())


def volume_info(info: VolumeInfo) -> volume_pb2.VolumeInfo:
    return volume_pb2.VolumeInfo(
        volume_id=info.volume_id,
        pool_id=info.pool_id,
        format=_TO_FORMATS[info.format],
        encrypt_format=volume_pb2.ENCRYPT_FORMAT_LUKS if info.encrypted else volume_pb2.ENCRYPT_FORMAT_NONE,
        virtual_size_bytes=info.virtual_size_bytes,
        allocated_bytes=info.allocated_bytes,
        consistency=_consistency(info.freeze),
        consistency_reason=info.freeze.reason if info.freeze else "",
    )


def _consistency(freeze: Freeze | None) -> volume_pb2.Consistency.ValueType:
    if freeze is None:
        return volume_pb2.CONSISTENCY_UNSPECIFIED
    return volume_pb2.CONSISTENCY_APPLICATION if freeze.frozen else volume_pb2.CONSISTENCY_CRASH


def volume_digest(digest: VolumeDigest) -> job_pb2.VolumeDigest:
    return job_pb2.VolumeDigest(sha256=digest.sha256, file_size_bytes=digest.file_size_bytes)


def template_source(message: agent_volume_pb2.TemplateSource, path: str = "template") -> TemplateSource:
    """Raises InvalidArgumentError."""
    if message.file_size_bytes < 1:
        raise bad_field(f"{path}.file_size_bytes", "must be positive")
    return TemplateSource(
        template_id=uuid_field(message.template_id, f"{path}.template_id"),
        sha256=message.sha256.lower(),
        file_size_bytes=message.file_size_bytes,
        format=disk_format(message.format, f"{path}.format"),
        sha512=message.sha512.lower(),
        direct=direct_source(message.direct, f"{path}.direct") if message.HasField("direct") else None,
        key=key(message.key, f"{path}.key") if message.HasField("key") else None,
        once=message.once,
    )


def direct_source(message: agent_volume_pb2.DirectSource, path: str) -> DirectSource:
    """Raises InvalidArgumentError."""
    checked_url(message.url, f"{path}.url")
    return DirectSource(message.url, message.ca_pem, message.proxy, message.allow_private)


def pool_spec(message: pool_pb2.PoolSpec, path: str = "spec") -> PoolSpec:
    """Raises InvalidArgumentError."""
    return PoolSpec(
        pool_id=uuid_field(message.pool_id, f"{path}.pool_id"),
        type=message.type,
        path=message.path,
        source=message.source,
        options=dict(message.options),
    )


def pool(value: Pool) -> pool_pb2.Pool:
    spec = value.spec
    return pool_pb2.Pool(
        spec=pool_pb2.PoolSpec(
            pool_id=spec.pool_id, type=spec.type, path=spec.path, source=spec.source, options=spec.options
        ),
        shared=value.shared,
        encryption=value.encryption,
        capacity_bytes=value.capacity_bytes,
        available_bytes=value.available_bytes,
        fingerprint=value.fingerprint,
    )


def disk_spec(message: vm_pb2.DiskSpec, path: str = "disk") -> DiskSpec:
    """Raises InvalidArgumentError."""
    if message.slot < 0:
        raise bad_field(f"{path}.slot", "must not be negative")
    serial = uuid_field(message.serial, f"{path}.serial") if message.serial else ""
    return DiskSpec(
        volume_ref(message.volume, f"{path}.volume"),
        message.slot,
        message.boot,
        serial,
        io_limits.from_message(message.limits, f"{path}.limits"),
        message.ignore_discard,
    )


def nic_spec(message: vm_pb2.NicSpec, path: str = "nic") -> NicSpec:
    """Raises InvalidArgumentError."""
    if not 0 <= message.vlan <= MAX_VLAN:
        raise bad_field(f"{path}.vlan", f"must be 0 to {MAX_VLAN}")
    if not 0 <= message.mtu <= MAX_MTU:
        raise bad_field(f"{path}.mtu", f"must be 0 to {MAX_MTU}")
    try:
        addresses = tuple(str(ip_address(address)) for address in message.addresses)
    except ValueError:
        raise bad_field(f"{path}.addresses", "must be IP addresses") from None
    return NicSpec(
        mac=message.mac,
        bridge=bridge_of(message.bridge, message.vlan),
        model=message.model or "virtio",
        vlan=message.vlan,
        trunk=message.bridge if message.vlan else "",
        mtu=message.mtu,
        filter=message.filter,
        addresses=addresses,
        link_down=message.link_down,
    )


def seen_address(value: SeenAddress) -> vm_pb2.SeenAddress:
    return vm_pb2.SeenAddress(
        mac=value.mac, address=value.address, source=vm_pb2.SeenAddress.Source.Value(value.source.value)
    )


def extra_config(message: vm_pb2.ExtraConfig, path: str) -> ExtraConfig:
    """Raises InvalidArgumentError, also for XML that `xml_fragment.parse` refuses."""
    if message.vhost_user not in _VHOST_USER:
        raise bad_field(f"{path}.vhost_user", "is not a known role")
    fragments = (*message.domain_xml, *message.interface_xml)
    if len(fragments) > MAX_FRAGMENTS:
        raise bad_field(path, f"has {len(fragments)} fragments; at most {MAX_FRAGMENTS} are allowed")
    for fragment in fragments:
        xml_fragment.parse(fragment)
    return ExtraConfig(tuple(message.domain_xml), tuple(message.interface_xml), _VHOST_USER[message.vhost_user])


def vm_spec(message: vm_pb2.VmSpec, path: str = "spec") -> VmSpec:
    """Raises InvalidArgumentError."""
    if not message.name:
        raise bad_field(f"{path}.name", "must not be empty")
    if message.cpus < 1:
        raise bad_field(f"{path}.cpus", "must be 1 or more")
    if message.memory_bytes < 1 or message.memory_bytes % (1 << 20):
        raise bad_field(f"{path}.memory_bytes", "must be a positive multiple of 1 MiB")
    if message.max_cpus < 0:
        raise bad_field(f"{path}.max_cpus", "must not be negative")
    if message.max_memory_bytes < 0 or message.max_memory_bytes % (1 << 20):
        raise bad_field(f"{path}.max_memory_bytes", "must be a multiple of 1 MiB")
    return VmSpec(
        vm_id=uuid_field(message.vm_id, f"{path}.vm_id"),
        name=message.name,
        cpus=message.cpus,
        memory_bytes=message.memory_bytes,
        firmware=firmware(message.firmware, f"{path}.firmware"),
        disks=tuple(disk_spec(disk, f"{path}.disks[{n}]") for n, disk in enumerate(message.disks)),
        nics=tuple(nic_spec(nic, f"{path}.nics[{n}]") for n, nic in enumerate(message.nics)),
        extra=extra_config(message.extra_config, f"{path}.extra_config"),
        seed=seed(message.seed, f"{path}.seed") if message.HasField("seed") else None,
        details=details(message.details, f"{path}.details"),
        max_cpus=message.max_cpus,
        max_memory_bytes=message.max_memory_bytes,
        cdroms=_cdroms(message.cdroms, f"{path}.cdroms"),
        machine=_machine(message.machine, f"{path}.machine"),
        cluster_cpus=_cpus(message.cluster_cpus, f"{path}.cluster_cpus"),
        tpm_key=_tpm_key(message.tpm, f"{path}.tpm") if message.HasField("tpm") else None,
        firmware_copy=_firmware_copy(message, f"{path}.firmware_state"),
    )


def _firmware_copy(message: vm_pb2.VmSpec, path: str) -> FirmwareCopy | None:
    if not message.HasField("firmware_state"):
        return None
    found = message.firmware_state
    if len(found.tpm) > MAX_TPM_BYTES:
        raise bad_field(f"{path}.tpm", f"must have at most {MAX_TPM_BYTES} bytes")
    state = FirmwareState(_inflated(found.variables, MAX_VARIABLES_BYTES, f"{path}.variables"), found.tpm)
    return FirmwareCopy(uuid_field(found.id, f"{path}.id"), state, found.replace)


def _inflated(data: bytes, max_bytes: int, path: str) -> bytes:
    if not data:
        return b""
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(data, max_bytes)
    except zlib.error:
        raise bad_field(path, "must be compressed by zlib") from None
    if not inflater.eof:
        raise bad_field(path, f"must have at most {max_bytes} bytes, and be whole")
    return found


def firmware_state(state: FirmwareState) -> vm_pb2.FirmwareState:
    return vm_pb2.FirmwareState(
        id=str(uuid.uuid4()),
        variables=zlib.compress(state.variables) if state.variables else b"",
        tpm=state.tpm,
    )


def _tpm_key(message: vm_pb2.Tpm, path: str) -> Key:
    return replace(key(message.key, f"{path}.key"), use=KeyUse.TPM)


def _cpus(messages: Sequence[vm_pb2.CpuModel], path: str) -> tuple[CpuModel, ...]:
    if len(messages) > MAX_CPUS_OF_CLUSTER:
        raise bad_field(path, f"must be at most {MAX_CPUS_OF_CLUSTER}")
    for number, message in enumerate(messages):
        names = (message.model, *([message.vendor] if message.vendor else []), *message.features, *message.lacks)
        if len(names) > MAX_CPU_FEATURES or not all(map(_CPU_NAME.fullmatch, names)):
            raise bad_field(f"{path}[{number}]", "must be names of a CPU model, its vendor and its features")
    return tuple(CpuModel(m.model, m.vendor, tuple(m.features), tuple(m.lacks)) for m in messages)


def to_cpu(cpu: CpuModel) -> vm_pb2.CpuModel:
    return vm_pb2.CpuModel(model=cpu.model, vendor=cpu.vendor, features=cpu.features, lacks=cpu.lacks)


def _machine(name: str, path: str) -> str:
    if name and not _MACHINE.fullmatch(name):
        raise bad_field(path, "must be the name of a machine type")
    return name


def _cdroms(messages: Sequence[vm_pb2.Cdrom], path: str) -> tuple[Cdrom, ...]:
    found = tuple(cdrom(message, f"{path}[{n}]") for n, message in enumerate(messages))
    if len({one.drive for one in found}) < len(found):
        raise bad_field(path, "must name each drive once")
    return found


def cdrom(message: vm_pb2.Cdrom, path: str) -> Cdrom:
    """Raises InvalidArgumentError."""
    if message.file_size_bytes < 1:
        raise bad_field(f"{path}.file_size_bytes", "must be positive")
    if not _SHA256.fullmatch(message.sha256):
        raise bad_field(f"{path}.sha256", "must be 64 lower-case hex digits")
    return Cdrom(
        iso_id=uuid_field(message.iso_id, f"{path}.iso_id"),
        sha256=message.sha256,
        file_size_bytes=message.file_size_bytes,
        drive=cdrom_drive(message.drive, f"{path}.drive"),
        boot_first=message.boot_first,
    )


def cdrom_drive(number: int, path: str) -> int:
    """Raises InvalidArgumentError."""
    if not 0 <= number < MAX_CDROMS:
        raise bad_field(path, f"must be 0 to {MAX_CDROMS - 1}")
    return number


def vm_size(message: agent_vm_pb2.ResizeVmRequest) -> tuple[int, int]:
    """CPUs, and memory in bytes. Raises InvalidArgumentError."""
    if message.cpus < 1:
        raise bad_field("cpus", "must be 1 or more")
    if message.memory_bytes < 1 or message.memory_bytes % (1 << 20):
        raise bad_field("memory_bytes", "must be a positive multiple of 1 MiB")
    return message.cpus, message.memory_bytes


def details(values: Mapping[str, str], path: str) -> dict[str, str]:
    """Raises InvalidArgumentError when there are too many or too long ones; the driver's schema is checked later."""
    if len(values) > MAX_FIELDS or any(len(value) > MAX_LENGTH for value in values.values()):
        raise bad_field(path, f"must be at most {MAX_FIELDS} values of at most {MAX_LENGTH} characters")
    return dict(values)


def seed(message: vm_pb2.Seed, path: str) -> dict[str, bytes]:
    """The files by name. Raises InvalidArgumentError."""
    files = {file.name: file.content for file in message.files}
    if len(files) < len(message.files) or not files.keys() <= _SEED_FILES:
        raise bad_field(f"{path}.files", f"must be some of {', '.join(sorted(_SEED_FILES))}, each once")
    if sum(map(len, files.values())) > MAX_SEED_BYTES:
        raise bad_field(f"{path}.files", f"must have at most {MAX_SEED_BYTES} bytes together")
    return files


def look(moment: Look) -> vm_pb2.Look:
    return vm_pb2.Look(life=moment.life, number=moment.number)


def vm_info(info: VmInfo, moment: Look | None = None) -> vm_pb2.VmInfo:
    return vm_pb2.VmInfo(
        vm_id=info.vm_id,
        name=info.name,
        power_state=POWER_STATES[info.power_state],
        cpus=info.cpus,
        memory_bytes=info.memory_bytes,
        volume_ids=info.volume_ids,
        managed=info.managed,
        migrating=info.migrating,
        pause_reason=_PAUSE_REASONS[info.pause_reason],
        machine=info.machine,
        look=look(moment) if moment else None,
    )
