"""The file of an import plan: read as a whole, every error told with its line. Pure.

What it names (offerings, pools, hosts) is looked up by its caller, who has the lines from here.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import yaml
from ostler_common.errors import OstlerError

from ostler_control.catalog.names import check_name
from ostler_control.imports.waves.yaml_nodes import Problem, integer, is_text, line_of, moment_or_text, read, truth

MAX_VMS, MAX_PARALLEL = 500, 32
_MAX_TEXT, _MAX_NETWORKS, _MAX_DISKS, _MAX_AFTER = 255, 64, 64, 64
_MAX_DISK_KEY = 2**31 - 1


@dataclass(frozen=True)
class Text:
    """A text of the file, and where it stands."""

    value: str
    line: int
    path: str


@dataclass(frozen=True)
class DiskEntry:
    """A disk that is to be other than the rest. key: VMware's device key."""

    key: int
    offering: Text | None
    pool: Text | None


@dataclass(frozen=True)
class CutOver:
    """When a warm import is cut over. time: UTC without a time zone; neither auto nor a time: when it is asked for."""

    auto: bool = False
    time: datetime.datetime | None = None


@dataclass(frozen=True)
class VmEntry:
    """A VM of the file, with the defaults filled in.

    source_vm: its ref or name at the source; texts: fields that name something, by name; flags: those that are true or
    false; networks: by name of the source's network; cut_over: None where nothing is said of it; after: positions of
    other VMs.
    """

    source_vm: Text
    texts: Mapping[str, Text]
    flags: Mapping[str, bool]
    networks: Mapping[str, Text]
    disks: Sequence[DiskEntry]
    cut_over: CutOver | None = None
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class PlanFile:
    """A whole file. parallel: limits by name."""

    name: str
    source: Text
    stop_on_no_go: bool
    parallel: Mapping[str, int]
    vms: Sequence[VmEntry]


PARALLEL_DEFAULTS: Mapping[str, int] = {"vms": 4, "per_esxi_host": 2, "per_vcenter": 8, "per_conversion_host": 2}
_FLAGS = ("shutdown", "stopped", "test_boot", "force_control_download", "warm", "tpm")
# What a warm import does not have: the guest is shut down at the cut-over, and nothing is staged.
NOT_WARM = ("shutdown", "staging_pool", "force_control_download")
_PLACES = ("zone", "cluster", "host")
# Texts that may stand in `defaults`, too.
_COMMON_TEXTS = ("account", "offering", "disk_offering", *_PLACES, "pool", "conversion_host", "staging_pool")
_COMMON = (*_COMMON_TEXTS, *_FLAGS, "cut_over", "networks")
_TOP = ("name", "source", "on_no_go", "parallel", "defaults", "vms")


def parse(content: bytes) -> tuple[PlanFile | None, list[Problem]]:
    """The plan as far as it could be read, and everything that is wrong with it. None: not even its VMs."""
    node = read(content)
    if isinstance(node, Problem):
        return None, [node]
    reader = _Reader()
    found = reader.plan(node)
    return found, sorted(reader.problems, key=lambda problem: (problem.line, problem.path))


@dataclass(frozen=True)
class _Fields:
    """Fields of a VM or of the defaults, as they stand there."""

    texts: dict[str, Text] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    networks: dict[str, Text] = field(default_factory=dict)
    cut_over: CutOver | None = None


class _Reader:
    """Reads nodes and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def plan(self, node: yaml.Node) -> PlanFile | None:
        top = self._mapping(node, "", _TOP)
        if top is None:
            return None
        name = self._name(top.get("name"), "name", line_of(node))
        source = self._required(top, "source", "", line_of(node))
        parallel = self._parallel(top.get("parallel"))
        stop = self._choice(top.get("on_no_go"), "on_no_go", ("continue", "stop")) == "stop"
        defaults = self._defaults(top.get("defaults"))
        vms = self._vms(top.get("vms"), defaults, line_of(node))
        if name is None or source is None or vms is None:
            return None
        return PlanFile(name.value, source, stop, parallel, vms)

    def _name(self, node: yaml.Node | None, path: str, line: int) -> Text | None:
        """A name that Ostler would give."""
        if node is None:
            self._problem(line, path, "REQUIRED", "is required")
            return None
        text = self._text(node, path)
        if text is not None:
            try:
                check_name(path, text.value)
            except OstlerError as error:
                self._problem(text.line, path, error.reason, error.violations[0].description)
        return text

    def _parallel(self, node: yaml.Node | None) -> Mapping[str, int]:
        limits = dict(PARALLEL_DEFAULTS)
        for key, value in (self._mapping(node, "parallel", tuple(limits)) or {} if node else {}).items():
            number = integer(value)
            if number is None or not 1 <= number <= MAX_PARALLEL:
                self._problem(
                    line_of(value), f"parallel.{key}", "INVALID_LIMIT", f"must be a number from 1 to {MAX_PARALLEL}"
                )
            else:
                limits[key] = number
        return limits

    def _choice(self, node: yaml.Node | None, path: str, words: Sequence[str]) -> str:
        if node is None:
            return words[0]
        text = self._text(node, path)
        if text is not None and text.value not in words:
            self._problem(text.line, path, "INVALID_CHOICE", f"must be {' or '.join(words)}")
        return text.value if text else words[0]

    def _defaults(self, node: yaml.Node | None) -> _Fields:
        if node is None:
            return _Fields()
        fields = self._mapping(node, "defaults", _COMMON)
        return self._common(fields or {}, "defaults")

    def _vms(self, node: yaml.Node | None, defaults: _Fields, line: int) -> list[VmEntry] | None:
        if node is None:
            self._problem(line, "vms", "REQUIRED", "is required: a list of VMs")
            return None
        items = self._sequence(node, "vms", MAX_VMS)
        if items is None:
            return None
        if not items:
            self._problem(line_of(node), "vms", "REQUIRED", "must name at least one VM")
        entries: list[VmEntry | None] = []
        afters: list[list[Text]] = []
        for number, item in enumerate(items):
            entry, after = self._vm(item, f"vms[{number}]", defaults)
            entries.append(entry)
            afters.append(after)
        return self._ordered(entries, afters)

    def _vm(self, node: yaml.Node, path: str, defaults: _Fields) -> tuple[VmEntry | None, list[Text]]:
        fields = self._mapping(node, path, ("vm", "name", *_COMMON, "disks", "after"))
        if fields is None:
            return None, []
        source_vm = self._required(fields, "vm", path, line_of(node))
        own = self._common(fields, path)
        texts = {**_without_other_places(defaults.texts, own.texts), **own.texts}
        if "name" in fields and (name := self._name(fields["name"], f"{path}.name", line_of(node))):
            texts["name"] = name
        flags = {**defaults.flags, **own.flags}
        cut_over = own.cut_over or defaults.cut_over
        if flags.get("warm"):
            self._without_staging(texts, flags, own, path, line_of(node))
        elif own.cut_over is not None:
            self._problem(line_of(node), f"{path}.cut_over", "CONFLICTING_FIELDS", "is of no use without warm: true")
        if "offering" not in texts:
            self._problem(line_of(node), f"{path}.offering", "REQUIRED", "is required, here or in `defaults`")
        if flags.get("stopped") and flags.get("test_boot"):
            self._problem(
                line_of(node), f"{path}.test_boot", "CONFLICTING_FIELDS", "excludes stopped: both leave the VM off"
            )
        disks = self._disks(fields.get("disks"), f"{path}.disks")
        after = self._after(fields.get("after"), f"{path}.after")
        if source_vm is None:
            return None, after
        networks = {**defaults.networks, **own.networks}
        return VmEntry(source_vm, texts, flags, networks, disks, cut_over), after

    def _without_staging(
        self, texts: dict[str, Text], flags: dict[str, bool], own: _Fields, path: str, line: int
    ) -> None:
        """For a warm import: what the defaults say of staging is not for it."""
        for name in NOT_WARM:
            if name in own.texts or own.flags.get(name):
                self._problem(
                    line,
                    f"{path}.{name}",
                    "CONFLICTING_FIELDS",
                    "excludes warm: the guest is shut down at the cut-over, and nothing is staged",
                )
            texts.pop(name, None)
            flags.pop(name, None)

    def _common(self, fields: Mapping[str, yaml.Node], path: str) -> _Fields:
        found = _Fields()
        for key in _COMMON_TEXTS:
            if key in fields and (text := self._text(fields[key], f"{path}.{key}")):
                found.texts[key] = text
        places = [key for key in _PLACES if key in fields]
        if len(places) > 1:
            self._problem(
                line_of(fields[places[1]]),
                f"{path}.{places[1]}",
                "CONFLICTING_FIELDS",
                f"excludes {places[0]}: at most one of zone, cluster and host",
            )
        for key in _FLAGS:
            if key not in fields:
                continue
            flag = truth(fields[key])
            if flag is None:
                self._problem(line_of(fields[key]), f"{path}.{key}", "INVALID_TYPE", "must be true or false")
            else:
                found.flags[key] = flag
        if "cut_over" in fields:
            found = replace(found, cut_over=self._cut_over(fields["cut_over"], f"{path}.cut_over"))
        if "networks" in fields:
            found.networks.update(self._networks(fields["networks"], f"{path}.networks"))
        return found

    def _cut_over(self, node: yaml.Node, path: str) -> CutOver:
        """`manual`, `auto`, or a moment with its time zone."""
        value = moment_or_text(node)
        if value in ("manual", "auto"):
            return CutOver(auto=value == "auto")
        try:
            time = datetime.datetime.fromisoformat(value)
            if time.tzinfo is None:
                raise ValueError
        except ValueError:
            self._problem(
                line_of(node),
                path,
                "INVALID_CUT_OVER",
                "must be manual, auto, or a time with its zone, like 2027-01-31T02:00:00+01:00",
            )
            return CutOver()
        return CutOver(time=time.astimezone(datetime.UTC).replace(tzinfo=None))

    def _networks(self, node: yaml.Node, path: str) -> Mapping[str, Text]:
        pairs = self._mapping(node, path, None) or {}
        if len(pairs) > _MAX_NETWORKS:
            self._problem(line_of(node), path, "TOO_MANY", f"has more than {_MAX_NETWORKS} networks")
        texts = {network: self._text(value, f"{path}.{network}") for network, value in pairs.items()}
        return {network: text for network, text in texts.items() if text is not None}

    def _disks(self, node: yaml.Node | None, path: str) -> list[DiskEntry]:
        found: list[DiskEntry] = []
        for number, item in enumerate((self._sequence(node, path, _MAX_DISKS) or []) if node else []):
            where = f"{path}[{number}]"
            fields = self._mapping(item, where, ("key", "offering", "pool"))
            if fields is None:
                continue
            key = integer(fields["key"]) if "key" in fields else None
            if key is None or not 0 < key <= _MAX_DISK_KEY:
                self._problem(line_of(item), f"{where}.key", "INVALID_DISK", "must be the disk's key at the source")
                continue
            if any(disk.key == key for disk in found):
                self._problem(line_of(item), f"{where}.key", "INVALID_DISK", f"names the disk {key} a second time")
            offering, pool = (
                self._text(fields[name], f"{where}.{name}") if name in fields else None for name in ("offering", "pool")
            )
            found.append(DiskEntry(key, offering, pool))
        return found

    def _after(self, node: yaml.Node | None, path: str) -> list[Text]:
        if node is None:
            return []
        items = [node] if is_text(node) else self._sequence(node, path, _MAX_AFTER) or []
        texts = [self._text(item, f"{path}[{number}]") for number, item in enumerate(items)]
        return [text for text in texts if text is not None]

    def _ordered(self, entries: Sequence[VmEntry | None], afters: Sequence[Sequence[Text]]) -> list[VmEntry]:
        """The entries with `after` as positions; checks that each VM is there once and that none waits for itself."""
        positions: dict[str, int] = {}
        names: dict[str, int] = {}
        for number, entry in enumerate(entries):
            if entry is None:
                continue
            vm, name = entry.source_vm, entry.texts.get("name")
            first = positions.setdefault(vm.value, number)
            if first != number:
                self._problem(vm.line, vm.path, "DUPLICATE_VM", f'"{vm.value}" is vms[{first}], too')
            if name is not None and names.setdefault(name.value, number) != number:
                self._problem(
                    name.line, name.path, "DUPLICATE_NAME", f'"{name.value}" is the name of vms[{names[name.value]}]'
                )
        needs: list[tuple[int, ...]] = []
        for after in afters:
            needs.append(tuple(dict.fromkeys(positions[text.value] for text in after if text.value in positions)))
            for text in after:
                if text.value not in positions:
                    self._problem(text.line, text.path, "UNKNOWN_VM", f'the plan has no VM "{text.value}"')
        for number in _in_cycles(needs):
            text = afters[number][0]
            self._problem(text.line, f"vms[{number}].after", "AFTER_CYCLE", "these VMs wait for one another")
        return [replace(entry, after=needs[number]) for number, entry in enumerate(entries) if entry is not None]

    def _required(self, fields: Mapping[str, yaml.Node], key: str, path: str, line: int) -> Text | None:
        where = f"{path}.{key}" if path else key
        if key in fields:
            return self._text(fields[key], where)
        self._problem(line, where, "REQUIRED", "is required")
        return None

    def _text(self, node: yaml.Node, path: str) -> Text | None:
        if not is_text(node):
            kind = "a list or a map" if not isinstance(node, yaml.ScalarNode) else "no text; put it in quotes"
            self._problem(line_of(node), path, "INVALID_TYPE", f"must be text, and is {kind}")
            return None
        value: str = node.value
        if not 0 < len(value) <= _MAX_TEXT or not value.isprintable():
            self._problem(line_of(node), path, "INVALID_TEXT", f"must be 1 to {_MAX_TEXT} printable characters")
            return None
        return Text(value, line_of(node), path)

    def _sequence(self, node: yaml.Node, path: str, most: int) -> list[yaml.Node] | None:
        if not isinstance(node, yaml.SequenceNode):
            self._problem(line_of(node), path, "INVALID_TYPE", "must be a list")
            return None
        items: list[yaml.Node] = node.value
        if len(items) > most:
            self._problem(line_of(items[most]), path, "TOO_MANY", f"has more than {most} entries")
        return items[:most]

    def _mapping(self, node: yaml.Node, path: str, known: Sequence[str] | None) -> dict[str, yaml.Node] | None:
        """Its fields; known: those that it may have, None for any."""
        if not isinstance(node, yaml.MappingNode):
            self._problem(line_of(node), path, "INVALID_TYPE", "must be a map (field: value)")
            return None
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            text = self._text(key, f"{path}.?" if path else "?")
            if text is None:
                continue
            where = f"{path}.{text.value}" if path else text.value
            if known is not None and text.value not in known:
                self._problem(text.line, where, "UNKNOWN_FIELD", f"is no field; there are {', '.join(known)}")
            elif text.value in fields:
                self._problem(text.line, where, "DUPLICATE_FIELD", "stands there twice")
            else:
                fields[text.value] = value
        return fields

    def _problem(self, line: int, path: str, reason: str, message: str) -> None:
        self.problems.append(Problem(line, path, reason, message))


def _without_other_places(defaults: Mapping[str, Text], own: Mapping[str, Text]) -> Mapping[str, Text]:
    """The defaults, without their zone, cluster or host when the VM names a place of its own."""
    if not any(place in own for place in _PLACES):
        return defaults
    return {key: text for key, text in defaults.items() if key not in _PLACES}


def _in_cycles(needs: Sequence[Sequence[int]]) -> list[int]:
    """Positions that wait for themselves, directly or through others."""
    needed_by: list[list[int]] = [[] for _ in needs]
    for number, wanted in enumerate(needs):
        for need in wanted:
            needed_by[need].append(number)
    left = _without_ends(set(range(len(needs))), needs, needed_by)
    # What is left waits for a cycle or is in one; only those that nobody else's removal frees are in it.
    return sorted(_without_ends(left, needed_by, needs))


def _without_ends(among: set[int], edges: Sequence[Sequence[int]], edges_back: Sequence[Sequence[int]]) -> set[int]:
    """What is left of some positions once those without an edge to another are removed, again and again. Takes time in
    proportion to the edges."""
    left = set(among)
    counts = {number: sum(other in left for other in edges[number]) for number in left}
    ends = [number for number, count in counts.items() if not count]
    while ends:
        end = ends.pop()
        left.discard(end)
        for number in edges_back[end]:
            if number in left:
                counts[number] -= 1
                if not counts[number]:
                    ends.append(number)
    return left
