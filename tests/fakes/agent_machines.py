"""The VMs of an agent in memory, with their disks, keys and firmware."""

from __future__ import annotations

from ostler.agent.v1 import (
    vm_pb2,
)
from ostler.types.v1 import vm_pb2 as types_vm_pb2
from ostler.types.v1 import volume_pb2 as types_volume_pb2
from ostler_agent.looks import Look
from ostler_agent.services import convert
from ostler_common.errors import FailedPreconditionError

from tests.fakes.agent_base import no_daemon
from tests.fakes.agent_files import AgentFiles
from tests.fakes.files import File
from tests.fakes.machines import ABSENT, RUNNING, STOPPED, FakeTpm, Machine


class AgentMachines(AgentFiles):
    """Looks them up, and puts in place what their start needs."""

    def _machine(self, vm_id: str) -> Machine:
        if not self._runs(vm_id):
            raise FailedPreconditionError(f"VM {vm_id} does not run on {self.name}", "VM_NOT_RUNNING")
        return self.vms[vm_id]

    def _runs(self, vm_id: str) -> bool:
        return vm_id in self.vms and self.vms[vm_id].running

    def runs(self, vm_id: str) -> bool:
        return self._runs(vm_id)

    def vm_infos(self) -> list[types_vm_pb2.VmInfo]:
        """All its VMs. Raises UnavailableError LIBVIRT_UNAVAILABLE."""
        if self.daemon_away:
            raise no_daemon()
        with self.fleet.lock:
            return [self._vm_info(vm_id) for vm_id in self.vms]

    def vm_info(self, vm_id: str) -> types_vm_pb2.VmInfo:
        return self._vm_info(vm_id)

    def look(self) -> Look:
        return self.life.looks.next()

    def _seen(self, vm_id: str) -> types_vm_pb2.VmInfo:
        """As an answer has it: newer than all that was reported before."""
        look = self.life.looks.next()
        info = self._vm_info(vm_id)
        info.look.CopyFrom(convert.look(look))
        return info

    def _vm_info(self, vm_id: str) -> types_vm_pb2.VmInfo:
        with self.fleet.lock:
            machine = self.vms.get(vm_id)
            state = ABSENT if machine is None else RUNNING if machine.running else STOPPED
            migrating = machine is not None and machine.migrating
            spec = machine.spec if machine else types_vm_pb2.VmSpec()
            return types_vm_pb2.VmInfo(
                vm_id=vm_id,
                power_state=state,
                managed=True,
                migrating=migrating,
                cpus=spec.cpus,
                memory_bytes=spec.memory_bytes,
                machine=(spec.machine or self.machine) if machine else "",
            )

    def _disk(self, vm_id: str, ref: types_volume_pb2.VolumeRef) -> types_vm_pb2.DiskSpec:
        for disk in self._machine(vm_id).spec.disks:
            if disk.volume.volume_id == ref.volume_id:
                return disk
        raise FailedPreconditionError(f"VM {vm_id} does not use volume {ref.volume_id}", "VOLUME_NOT_ATTACHED")

    def _check_disks(self, spec: types_vm_pb2.VmSpec) -> None:
        for disk in spec.disks:
            self._check_key(self._file(disk.volume), disk.volume)
        if spec.HasField("tpm"):
            assert spec.tpm.key.passphrase, "a TPM without its key"
            self.secrets.add(spec.tpm.key.key_id)
            self._place_firmware_state(spec)
            if self.tpms[spec.vm_id].passphrase != spec.tpm.key.passphrase:
                raise FailedPreconditionError("the key does not open the state of the TPM", "WRONG_KEY")

    def _place_seed(self, spec: types_vm_pb2.VmSpec) -> None:
        self.seeds.pop(spec.vm_id, None)
        if spec.HasField("seed"):
            self.seeds[spec.vm_id] = {file.name: file.content for file in spec.seed.files}

    def _place_firmware_state(self, spec: types_vm_pb2.VmSpec) -> None:
        here, carried = self.tpms.get(spec.vm_id), spec.firmware_state
        if carried.tpm and (here is None or (carried.replace and here.copy_id != carried.id)):
            passphrase, _, content = carried.tpm.partition(b"|")
            self.tpms[spec.vm_id] = FakeTpm(passphrase, content, carried.id)
        self.tpms.setdefault(spec.vm_id, FakeTpm(spec.tpm.key.passphrase, b""))

    def _check_image_lock(self, vm_id: str) -> None:
        if self.fleet.image_locks and (where := [n for n in self.fleet.running_on(vm_id) if n != self.name]):
            self.fleet.refused_by_locks.add(vm_id)
            raise FailedPreconditionError(f"a QEMU on {where[0]} has the image open", "VOLUME_IN_USE")

    def _drop_secrets(self, spec: types_vm_pb2.VmSpec) -> None:
        self.secrets -= {disk.volume.key.key_id for disk in spec.disks} | {spec.tpm.key.key_id}

    def _save_memory(self, vm_id: str, target: types_volume_pb2.VolumeRef) -> types_volume_pb2.VolumeInfo:
        """What the guest has in its memory is, to this agent, which disks it has."""
        files, machine = self._files(target), self.vms[vm_id]
        if not machine.running:
            raise FailedPreconditionError(f"VM {vm_id} does not run", "VM_NOT_RUNNING")
        if target.volume_id in files:
            raise FailedPreconditionError(f"volume {target.volume_id} exists", "VOLUME_EXISTS")
        content = " ".join(self._file(disk.volume).content for disk in machine.spec.disks)
        files[target.volume_id] = File(
            machine.spec.memory_bytes, target.format, target.key.passphrase, target.key.key_id, content=content
        )
        return self._volume_info(target)

    def _memory_of(self, request: vm_pb2.StartVmRequest) -> str:
        file = self._file(request.memory)
        self._open(file, request.memory)
        if file.content != " ".join(self._file(disk.volume).content for disk in request.spec.disks):
            raise FailedPreconditionError("the memory is of other disks", "MEMORY_NOT_RESTORED")
        return file.content

    def undo_prepare(self, request: vm_pb2.PrepareMigrationRequest) -> None:
        """Deletes what was prepared for a VM, unless that has arrived."""
        spec = request.spec
        self.admitted.pop(spec.vm_id, None)
        if self._runs(spec.vm_id):
            return
        self.seeds.pop(spec.vm_id, None)
        moved = {volume.volume_id for volume in request.moved_volumes}
        for disk in spec.disks:
            if disk.volume.volume_id in moved:
                self._files(disk.volume).pop(disk.volume.volume_id, None)
