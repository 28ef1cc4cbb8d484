"""Extra configuration in a domain: how it is merged, what libvirt says of it, and 10,000 attempts to get around."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from ostler_agent.hypervisors.libvirt.xml.element import to_text
from ostler_agent.hypervisors.libvirt.xml.extra import merge, merge_interfaces
from ostler_common.errors import FailedPreconditionError, OstlerError
from ostler_common.xml_fragment import QEMU_NAMESPACE, parse
from ostler_control.extraconfig.check import Policy, check
from ostler_control.extraconfig.rules import Rule, parse_rules

GOLDEN = Path(__file__).parent / "golden"


def domain(name: str = "plain") -> Element:
    return ElementTree.fromstring((GOLDEN / f"domain-{name}.xml").read_text())


def merged(*fragments: str) -> Element:
    root = domain()
    merge(root, fragments)
    return ElementTree.fromstring(to_text(root))


def refusal(*fragments: str) -> OstlerError:
    with pytest.raises(FailedPreconditionError) as caught:
        merged(*fragments)
    return caught.value


def only(root: Element, path: str) -> Element:
    (found,) = root.findall(path)
    return found


def test_nothing_changes_nothing() -> None:
    assert to_text(merged()) == to_text(domain())


def test_what_a_domain_has_once_is_merged() -> None:
    root = merged("<cpu mode='host-passthrough'><topology cores='2'/></cpu><os><bootmenu enable='yes'/></os>")
    assert only(root, "cpu").attrib == {"mode": "host-passthrough", "check": "partial"}
    assert only(root, "cpu/topology").attrib == {"sockets": "1", "dies": "1", "cores": "2", "threads": "1"}
    assert [child.tag for child in only(root, "os")] == ["type", "bootmenu"]


def test_elements_with_a_key_replace_their_like() -> None:
    root = merged(
        "<clock offset='localtime'><timer name='hpet' present='yes'/><timer name='tsc' mode='native'/></clock>",
        "<cpu><feature name='vmx' policy='require'/></cpu>",
        "<cpu><feature name='vmx' policy='disable'/></cpu>",
    )
    assert {timer.get("name"): timer.get("present") for timer in root.findall("clock/timer")} == {
        "rtc": None,
        "pit": None,
        "hpet": "yes",
        "tsc": None,
    }
    assert [found.get("policy") for found in root.findall("cpu/feature[@name='vmx']")] == ["disable"]


def test_the_first_video_replaces_ostlers_and_another_is_added() -> None:
    root = merged("<devices><video><model type='virtio'/></video><video><model type='bochs'/></video></devices>")
    assert [model.get("type") for model in root.findall("devices/video/model")] == ["virtio", "bochs"]


def test_other_devices_are_added() -> None:
    root = merged("<devices><watchdog model='i6300esb'/><sound model='ich9'/><sound model='ac97'/></devices>")
    assert len(root.findall("devices/watchdog")) == 1
    assert len(root.findall("devices/sound")) == 2
    assert len(root.findall("devices/disk[@device='disk']")) == 1


def test_interfaces_get_their_own() -> None:
    root = domain("nics")
    merge_interfaces(root, ["<driver name='vhost' queues='4'/>", "<model type='virtio'/><mtu size='9000'/>"])
    for interface in root.findall("devices/interface"):
        assert only(interface, "driver").attrib == {"name": "vhost", "queues": "4"}
        assert only(interface, "model").get("type") == "virtio"
        assert only(interface, "mtu").get("size") == "9000"
    assert [only(item, "source").get("bridge") for item in root.findall("devices/interface")] == ["br0", "br1"]


@pytest.mark.parametrize(
    "fragment",
    [
        "<name>x</name>",
        "<uuid>x</uuid>",
        "<metadata><x/></metadata>",
        "<memory>1</memory>",
        "<memory unit='GiB'/>",
        "<vcpu>64</vcpu>",
        "<vcpu current='1'/>",
        "<maxMemory slots='1'>1</maxMemory>",
        "<os><type machine='pc'/></os>",
        "<cpu><numa><cell id='0' memory='1' unit='GiB'/></numa></cpu>",
        "<cpu><numa><cell id='0' memory='262144'/><cell id='1' memory='1'/></numa></cpu>",
        "<cpu><numa><cell id='0' memory='x'/></numa></cpu>",
        "<cpu><numa><cell id='0'/></numa></cpu>",
    ],
)
def test_the_vm_stays_the_one_that_ostler_accounts_for(fragment: str) -> None:
    assert refusal(fragment).reason == "EXTRA_CONFIG_OWNED"


# Whole examples, as documented, against libvirt's own schema.
EXAMPLES = {
    "video": "<devices><video><model type='qxl' ram='65536' vram='65536' vgamem='16384' heads='1'/></video></devices>",
    "tpm": "<devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>",
    "agent": "<devices><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>",
    "watchdog": "<devices><watchdog model='i6300esb' action='reset'/></devices>",
    "cpu": "<cpu><feature policy='require' name='vmx'/><feature policy='disable' name='x2apic'/></cpu>",
    "clock": "<clock offset='localtime'><timer name='hpet' present='yes'/></clock>",
    "hyperv": "<features><hyperv><relaxed state='on'/></hyperv><kvm><hidden state='on'/></kvm></features>",
    "serial": "<sysinfo type='smbios'><system><entry name='serial'>42</entry></system></sysinfo>"
    "<os><smbios mode='sysinfo'/></os>",
    "numa": "<cpu mode='host-passthrough'><numa>"
    "<cell id='0' cpus='0' memory='262144' unit='KiB' memAccess='shared'/></numa></cpu>",
    "hugepages": "<memoryBacking><hugepages/></memoryBacking>",
    "pinning": "<cputune><vcpupin vcpu='0' cpuset='1'/></cputune>",
    "qemu": f"<qemu:commandline xmlns:qemu='{QEMU_NAMESPACE}'><qemu:arg value='-no-hpet'/></qemu:commandline>",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_libvirts_schema_takes_the_merged_domain(name: str, tmp_path: Path) -> None:
    if shutil.which("virt-xml-validate") is None or shutil.which("xmllint") is None:
        pytest.skip("virt-xml-validate or xmllint is not installed here")
    file = tmp_path / "domain.xml"
    file.write_text(to_text(merged(EXAMPLES[name])))
    result = subprocess.run(["virt-xml-validate", str(file), "domain"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


# Attempts to get around the check.

ATTEMPTS = 10_000
HOST_FILE = "/etc/shadow"
LISTS = (
    "devices/video,cpu/feature@policy=require|disable,clock",
    "devices,cpu,os,memoryBacking,features,sysinfo,clock,cputune,seclabel,qemu:commandline",
    "devices/rng,devices/tpm,devices/channel,devices/interface,os/bootmenu,cpu@mode=host-passthrough",
)
# Independent of the table that the check uses: what must never be in a domain more often than Ostler puts it there.
FORBIDDEN = (
    *("disk", "filesystem", "hostdev", "emulator", "interface", "graphics", "serial", "console", "parallel", "source"),
    *("script", "loader", "nvram", "kernel", "initrd", "table", "shmem", "vsock", "memory", "audio", "smartcard"),
    *("redirdev", "lease", "pstore", "seclabel", "launchSecurity", "locked", "type", "acceleration"),
)
NAMES = (
    *FORBIDDEN,
    *("devices", "video", "model", "cpu", "feature", "clock", "timer", "os", "bootmenu", "rng", "backend", "tpm"),
    *("channel", "target", "memoryBacking", "hugepages", "features", "acpi", "sysinfo", "system", "entry", "name"),
    *("uuid", "metadata", "vcpu", "driver", "address"),
)
ATTRIBUTES = {
    "type": ("file", "unix", "emulator", "passthrough", "virtio", "vga", "smbios", "fwcfg", "pci"),
    "model": ("builtin", "random", "egd", "virtio"),
    "policy": ("require", "disable", "force"),
    "mode": ("host-passthrough", "bind", "host"),
    "name": ("vmx", "hpet", "vhostuser", "qemu", "vhost", "org.qemu.guest_agent.0"),
    "path": (HOST_FILE,),
    "file": (HOST_FILE, "&#47;etc/shadow"),
    "rendernode": (HOST_FILE,),
    "action": ("dump", "reset"),
}
LIKELY = {
    "": ("devices", "cpu", "os", "clock", "memoryBacking", "features"),
    "devices": ("video", "rng", "tpm", "channel", "interface"),
    "video": ("model", "driver", "address"),
    "model": ("acceleration",),
    "rng": ("backend",),
    "tpm": ("backend",),
    "channel": ("target", "source"),
    "cpu": ("feature",),
    "clock": ("timer",),
    "os": ("bootmenu", "loader", "kernel"),
}


def spelled(rng: random.Random, name: str) -> str:
    """The name, now and then in a spelling that hopes to be overlooked."""
    way = rng.randrange(60)
    if way == 0:
        return rng.choice((name.upper(), name.title()))
    if way == 1:
        return f"{rng.choice(('qemu', 'x', 'xml'))}:{name}"
    return name


def written(rng: random.Random, name: str, depth: int = 0) -> str:
    """A random element as text, with ever fewer inside."""
    chosen = rng.sample(sorted(ATTRIBUTES), rng.choice((0, 0, 0, 1, 1, 2)))
    attributes = [f"{key}={rng.choice(ATTRIBUTES[key])!r}" for key in chosen]
    if name == "feature":
        attributes = [f"policy={rng.choice(ATTRIBUTES['policy'])!r}", "name='vmx'"]
    if rng.randrange(40) == 0:
        attributes.append(f"xmlns{rng.choice(('', ':qemu', ':x'))}={rng.choice((QEMU_NAMESPACE, 'urn:x'))!r}")
    inside = []
    for _ in range(rng.choice((0, 1, 1, 2)) if depth < 4 else 0):
        likely = LIKELY.get(name, ())
        inside.append(written(rng, rng.choice(likely if likely and rng.random() < 0.85 else NAMES), depth + 1))
    if rng.randrange(12) == 0:
        inside.insert(0, rng.choice(SURPRISES))
    tag = spelled(rng, name)
    return f"<{' '.join([tag, *attributes])}>{''.join(inside)}</{tag}>"


SURPRISES = (
    HOST_FILE,
    "&#47;etc/shadow",
    "<!-- <disk/> -->",
    "<!-- --><disk/><!-- -->",
    "<![CDATA[<disk/>]]>",
    "<?disk file='/etc/shadow'?>",
    "&disk;",
    "</fragment><disk/><fragment>",
    "</devices><disk type='file'/><devices>",
    "<emulator>/etc/shadow</emulator>",
    "\x00",
    "\ufeff",
    "]]>",
    "&lt;disk/&gt;",
)


def attempt(rng: random.Random) -> str:
    """Random elements, or a proper example with something put into it, or left as it is."""
    if rng.random() < 0.5:
        return "".join(written(rng, rng.choice(LIKELY[""] if rng.random() < 0.9 else NAMES)) for _ in range(2))
    text = "".join(rng.choices(tuple(EXAMPLES.values()), k=2))
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.choice([index + 1 for index, letter in enumerate(text) if letter == ">"])
        text = (
            text[:at]
            + (rng.choice(SURPRISES) if rng.random() < 0.3 else written(rng, rng.choice(NAMES), 3))
            + text[at:]
        )
    return text


def contents(item: Element, path: str = "") -> Counter[str]:
    """How often each path is there."""
    found = Counter({path: 1} if path else {})
    for child in item:
        found += contents(child, f"{path}/{child.tag}".removeprefix("/"))
    return found


def on_list(path: str, rules: tuple[Rule, ...]) -> bool:
    parts = tuple(path.replace(f"{{{QEMU_NAMESPACE}}}", "qemu:").split("/"))
    return any(rule.path[: len(parts)] == parts or parts[: len(rule.path)] == rule.path for rule in rules)


def test_no_extra_configuration_gets_a_forbidden_element_into_a_domain() -> None:
    rng = random.Random(20240229)
    before = contents(domain())
    own = Counter(path.rpartition("/")[2] for path in before.elements())
    policies = [Policy(parse_rules(text)) for text in LISTS]
    outcomes: Counter[str] = Counter()
    for _ in range(ATTEMPTS):
        policy = rng.choice(policies)
        text = attempt(rng)
        try:
            check(parse(text), policy)
            result = to_text(_merged_into_fresh(text))
        except OstlerError as error:
            outcomes[error.reason] += 1
            continue
        outcomes["ADMITTED"] += 1
        after = contents(ElementTree.fromstring(result))
        added = after - before
        outcomes["CHANGED"] += bool(added)
        names = Counter(path.rpartition("/")[2] for path in after.elements())
        assert {name for name in FORBIDDEN if names[name] > own[name]} == set(), text
        assert HOST_FILE not in result, text
        assert QEMU_NAMESPACE not in result, text
        assert [path for path in added if not on_list(path, policy.rules)] == [], text
    # Neither the generator nor the check is idle.
    assert outcomes["CHANGED"] > ATTEMPTS / 40, outcomes
    for reason in ("XML_SYNTAX", "XML_FORBIDDEN", "EXTRA_CONFIG_NOT_ALLOWED", "EXTRA_CONFIG_HOST_ACCESS"):
        assert outcomes[reason] > ATTEMPTS / 100, outcomes


def _merged_into_fresh(text: str) -> Element:
    root = domain()
    merge(root, [text])
    return root
