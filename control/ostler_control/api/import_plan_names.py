"""Looks up what the file of an import plan names, and tells every name that there is not, with its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from ostler_common.errors import InvalidArgumentError, OstlerError, Violation

from ostler_control import networks
from ostler_control.api.resolve import resolve
from ostler_control.api.start_operation import account_for
from ostler_control.caller import Caller
from ostler_control.imports import kvm_source
from ostler_control.imports.waves.document import NOT_WARM, CutOver, Text, VmEntry, parse
from ostler_control.imports.waves.order import Limits
from ostler_control.imports.waves.planned import PlannedDisk, PlannedVm
from ostler_control.imports.waves.store import NewPlan
from ostler_control.imports.waves.yaml_nodes import Problem
from ostler_control.models import (
    Account,
    BaseModel,
    Cluster,
    DiskOffering,
    Host,
    ImportPlan,
    ImportSource,
    Network,
    Pool,
    ServiceOffering,
    Zone,
)

_Row = TypeVar("_Row", bound=BaseModel)
_MAX_TOLD = 10


def read(document: bytes, caller: Caller) -> tuple[NewPlan | None, list[Problem]]:
    """The plan that a file describes, None when anything is wrong with it, and all that is: within a session."""
    found, problems = parse(document)
    if found is None:
        return None, problems
    names = _Names(caller)
    source = names.row(ImportSource, found.source)
    if source is not None and source.type == kvm_source.TYPE:
        names.problems += _not_for_kvm(source, found.vms)
    vms = [(names.vm(entry), entry.after) for entry in found.vms]
    if ImportPlan.select().where(ImportPlan.name == found.name).exists():
        message = f"there is an import plan named {found.name} already"
        names.problems.append(Problem(1, "name", "IMPORT_PLAN_EXISTS", message))
    unique = dict.fromkeys(problems + names.problems)  # a name in `defaults` is looked up for every VM
    problems = sorted(unique, key=lambda problem: (problem.line, problem.path))
    if problems or source is None:
        return None, problems
    limits = Limits(**found.parallel)
    return NewPlan(found.name, source, found.stop_on_no_go, limits, vms, document.decode()), []


def _not_for_kvm(source: ImportSource, vms: Sequence[VmEntry]) -> Iterator[Problem]:
    """What VMs of a KVM host cannot be asked to do."""
    for entry in vms:
        for name in ("warm", *NOT_WARM):
            text = entry.texts.get(name)
            if text is not None or entry.flags.get(name):
                line, path = (text.line, text.path) if text else (entry.source_vm.line, entry.source_vm.path)
                message = f"{name} is for VMware, and {source.name} is a KVM host"
                yield Problem(line, path, "CONFLICTING_FIELDS", message)


def invalid(problems: Sequence[Problem]) -> InvalidArgumentError:
    """The error for a file with these problems, which tells the first ones."""
    count = len(problems)
    return InvalidArgumentError(
        f"the plan has {count} error{'s' if count > 1 else ''}; nothing was stored",
        "IMPORT_PLAN_INVALID",
        {"errors": str(count)},
        [
            Violation(problem.path or "document", f"line {problem.line}: {problem.message} [{problem.reason}]")
            for problem in problems[:_MAX_TOLD]
        ],
    )


class _Names:
    """Looks names up and collects those that there are not."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.problems: list[Problem] = []
        self._known: dict[tuple[type[BaseModel], str], BaseModel | OstlerError] = {}

    def vm(self, entry: VmEntry) -> PlannedVm:
        texts, flags = entry.texts, entry.flags
        account = self._account(texts.get("account"))
        warm_cut_over = entry.cut_over if entry.cut_over and flags.get("warm") else CutOver()
        return PlannedVm(
            source_vm=entry.source_vm.value,
            name=texts["name"].value if "name" in texts else "",
            account_id=str(account.id) if account is not None else "",
            offering_id=self._id(ServiceOffering, texts.get("offering")),
            disk_offering_id=self._id(DiskOffering, texts.get("disk_offering")),
            zone_id=self._id(Zone, texts.get("zone")),
            cluster_id=self._id(Cluster, texts.get("cluster")),
            host_id=self._id(Host, texts.get("host")),
            pool_id=self._id(Pool, texts.get("pool")),
            conversion_host_id=self._id(Host, texts.get("conversion_host")),
            staging_pool_id=self._id(Pool, texts.get("staging_pool")),
            disks=tuple(
                PlannedDisk(disk.key, self._id(DiskOffering, disk.offering), self._id(Pool, disk.pool))
                for disk in entry.disks
            ),
            network_ids=self._networks(entry, account),
            shutdown=flags.get("shutdown", False),
            stopped=flags.get("stopped", False),
            test_boot=flags.get("test_boot", False),
            tpm=flags.get("tpm", False),
            force_control_download=flags.get("force_control_download", False),
            warm=flags.get("warm", False),
            auto_cut_over=warm_cut_over.auto,
            cut_over_time=warm_cut_over.time.isoformat() if warm_cut_over.time else "",
        )

    def row(self, model: type[_Row], text: Text) -> _Row | None:
        """The object that a text names; None, with a problem, when there is none."""
        key = (model, text.value)
        if key not in self._known:
            try:
                self._known[key] = resolve(model, text.value, text.path)
            except OstlerError as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, OstlerError):
            self._problem(text, found)
            return None
        assert isinstance(found, model)
        return found

    def _id(self, model: type[BaseModel], text: Text | None) -> str:
        found = self.row(model, text) if text is not None else None
        return str(found.id) if found is not None else ""

    def _account(self, text: Text | None) -> Account | None:
        try:
            return account_for(self._caller, text.value if text is not None else "")
        except OstlerError as error:
            self._problem(text or Text("", 1, "account"), error)
            return None

    def _networks(self, entry: VmEntry, account: Account | None) -> Mapping[str, str]:
        """Ids of networks that the account may use, by name of the source's."""
        ids = {}
        for name, text in entry.networks.items():
            network = self.row(Network, text)
            if network is None or account is None:
                continue
            try:
                networks.check_allowed(network, account)
            except OstlerError as error:
                self._problem(text, error)
            ids[name] = str(network.id)
        return ids

    def _problem(self, text: Text, error: OstlerError) -> None:
        self.problems.append(Problem(text.line, text.path, error.reason, error.message))
