import uuid
import zlib
from collections.abc import Callable

import pytest
from ostler.agent.v1 import pool_pb2
from ostler.agent.v1 import volume_pb2 as agent_pb2
from ostler.types.v1 import vm_pb2, volume_pb2
from ostler_agent.pools import Pool, PoolSpec
from ostler_agent.services import convert
from ostler_agent.spec import (
    MAX_TPM_BYTES,
    MAX_VARIABLES_BYTES,
    DiskFormat,
    ExtraConfig,
    Firmware,
    FirmwareState,
    KeyUse,
    PowerState,
    Provisioning,
    VhostUser,
    VmInfo,
    VolumeInfo,
)
from ostler_common.errors import InvalidArgumentError

POOL, VOLUME, KEY, VM = (str(uuid.UUID(int=n)) for n in range(1, 5))


def ref() -> volume_pb2.VolumeRef:
    return volume_pb2.VolumeRef(
        pool_id=POOL,
        volume_id=VOLUME,
        format=volume_pb2.DISK_FORMAT_QCOW2,
        key=volume_pb2.VolumeKey(key_id=KEY, passphrase=b"quiet"),
    )


def vm() -> vm_pb2.VmSpec:
    disk = vm_pb2.DiskSpec(volume=ref(), slot=0, boot=True)
    nic = vm_pb2.NicSpec(mac="52:54:00:00:00:01", bridge="br0")
    return vm_pb2.VmSpec(vm_id=VM, name="web", cpus=2, memory_bytes=1 << 30, disks=[disk], nics=[nic])


def bad_path(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        call()
    return caught.value.violations[0].field


def test_a_vm_with_what_is_not_given_filled_in() -> None:
    spec = convert.vm_spec(vm())
    assert (spec.firmware, spec.nics[0].model) == (Firmware.BIOS, "virtio")
    key = spec.disks[0].volume.key
    assert key
    assert key.passphrase
    assert (key.passphrase.reveal(), key.iter_time_ms) == (b"quiet", 10)


def test_extra_configuration_is_read_and_looked_at_before_anything_is_done() -> None:
    message = vm()
    assert not convert.vm_spec(message).extra
    message.extra_config.domain_xml.append("<pm/>")
    message.extra_config.interface_xml.append("<mtu size='9000'/>")
    message.extra_config.vhost_user = vm_pb2.ExtraConfig.VHOST_USER_SERVER
    assert convert.vm_spec(message).extra == ExtraConfig(("<pm/>",), ("<mtu size='9000'/>",), VhostUser.SERVER)
    message.extra_config.interface_xml.append("<?x y?>")
    with pytest.raises(InvalidArgumentError) as caught:
        convert.vm_spec(message)
    assert caught.value.reason == "XML_FORBIDDEN"
    message.extra_config.interface_xml[:] = ["<mtu/>"] * (convert.MAX_FRAGMENTS + 1)
    assert bad_path(lambda: convert.vm_spec(message)) == "spec.extra_config"


def test_a_key_may_be_known_by_its_id_only() -> None:
    message = ref()
    message.key.passphrase = b""
    key = convert.volume_ref(message).key
    assert key
    assert (key.key_id, key.passphrase) == (KEY, None)
    message.ClearField("key")
    assert convert.volume_ref(message).key is None


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a", f"{VOLUME}/x"])
def test_ids_are_uuids_so_that_no_path_can_be_made_of_them(name: str) -> None:
    message = ref()
    message.volume_id = name
    assert bad_path(lambda: convert.volume_ref(message)) == "volume.volume_id"
    spec = pool_pb2.PoolSpec(pool_id=name, type="local", path="/p")
    assert bad_path(lambda: convert.pool_spec(spec)) == "spec.pool_id"


def test_bad_fields_are_named() -> None:
    message = vm()
    message.disks[0].volume.ClearField("format")
    assert bad_path(lambda: convert.vm_spec(message)) == "spec.disks[0].volume.format"
    message = vm()
    message.disks[0].volume.key.passphrase = b"\xff"
    assert bad_path(lambda: convert.vm_spec(message)) == "spec.disks[0].volume.key.passphrase"
    for field, value in (("cpus", 0), ("memory_bytes", 1000), ("name", "")):
        message = vm()
        setattr(message, field, value)
        assert bad_path(lambda message=message: convert.vm_spec(message)) == f"spec.{field}"  # type: ignore[misc]
    assert bad_path(lambda: convert.provisioning(9, "provisioning")) == "provisioning"  # type: ignore[arg-type]


def test_provisioning_that_is_not_given_is_thin() -> None:
    assert convert.provisioning(volume_pb2.PROVISIONING_UNSPECIFIED, "p") is Provisioning.THIN


def test_a_template_source() -> None:
    message = agent_pb2.TemplateSource(
        template_id=VM, sha256="AB" * 32, file_size_bytes=7, format=volume_pb2.DISK_FORMAT_RAW
    )
    assert convert.template_source(message).sha256 == "ab" * 32
    message.file_size_bytes = 0
    assert bad_path(lambda: convert.template_source(message)) == "template.file_size_bytes"


def test_answers() -> None:
    info = convert.volume_info(VolumeInfo(VOLUME, POOL, DiskFormat.RAW, True, 1024, 512))
    assert (info.format, info.encrypt_format) == (volume_pb2.DISK_FORMAT_RAW, volume_pb2.ENCRYPT_FORMAT_LUKS)
    assert (info.virtual_size_bytes, info.allocated_bytes) == (1024, 512)
    found = convert.vm_info(VmInfo(VM, "web", PowerState.CRASHED, 1, 1 << 20, (VOLUME,), True))
    assert (found.power_state, list(found.volume_ids)) == (vm_pb2.POWER_STATE_CRASHED, [VOLUME])
    spec = PoolSpec(POOL, "nfs", "", "server:/x", {"mount_options": "ro"})
    pool = convert.pool(Pool(spec, True, True, 100, 50, "mark"))
    assert convert.pool_spec(pool.spec) == spec
    assert (pool.shared, pool.capacity_bytes, pool.available_bytes, pool.fingerprint) == (True, 100, 50, "mark")


def test_what_firmware_kept_is_limited_also_when_it_is_compressed() -> None:
    message = vm()
    assert convert.vm_spec(message).firmware_copy is None
    message.firmware_state.CopyFrom(convert.firmware_state(FirmwareState(b"v" * MAX_VARIABLES_BYTES, b"t")))
    assert len(message.firmware_state.variables) < 1 << 16
    copy = convert.vm_spec(message).firmware_copy
    assert copy is not None
    assert copy.state == FirmwareState(b"v" * MAX_VARIABLES_BYTES, b"t")
    assert repr(copy.state) == "FirmwareState()"
    for bad in (zlib.compress(bytes(MAX_VARIABLES_BYTES + 1)), b"plain", zlib.compress(b"cut short")[:-2]):
        message.firmware_state.variables = bad
        assert bad_path(lambda: convert.vm_spec(message)) == "spec.firmware_state.variables"
    message.firmware_state.variables = b""
    message.firmware_state.tpm = bytes(MAX_TPM_BYTES + 1)
    assert bad_path(lambda: convert.vm_spec(message)) == "spec.firmware_state.tpm"
    message.firmware_state.tpm, message.firmware_state.id = b"", "no id"
    assert bad_path(lambda: convert.vm_spec(message)) == "spec.firmware_state.id"


def test_a_tpm_needs_a_key() -> None:
    message = vm()
    assert convert.vm_spec(message).tpm_key is None
    message.tpm.SetInParent()
    assert bad_path(lambda: convert.vm_spec(message)) == "spec.tpm.key.key_id"
    message.tpm.key.key_id, message.tpm.key.passphrase = VOLUME, b"secret"
    of_volume, key = convert.vm_spec(message).keys
    assert (of_volume.key_id, of_volume.use) == (KEY, KeyUse.VOLUME)
    assert (key.key_id, key.use) == (VOLUME, KeyUse.TPM)
