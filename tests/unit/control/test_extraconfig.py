"""Extra configuration: the allow-list, what reaches the host, what is Ostler's, DPDK."""

from __future__ import annotations

import pytest
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, OstlerError
from ostler_common.xml_fragment import QEMU_NAMESPACE, parse
from ostler_control.extraconfig.check import Policy, check
from ostler_control.extraconfig.dpdk import VhostUser, check_dpdk
from ostler_control.extraconfig.names import check_config_name, is_reserved
from ostler_control.extraconfig.rules import parse_rules

LIST = "devices/video, cpu/feature@policy=require|disable, clock"


def refusal(text: str, rules: str = LIST, host_access: bool = False) -> OstlerError:
    with pytest.raises(FailedPreconditionError) as caught:
        check(parse(text), Policy(parse_rules(rules), host_access))
    return caught.value


def allow(text: str, rules: str = LIST, host_access: bool = False) -> None:
    check(parse(text), Policy(parse_rules(rules), host_access))


# The allow-list.


def test_a_list_is_read_and_written_back() -> None:
    rules = parse_rules("devices/video\ncpu/feature@policy=require|disable@name , ,qemu:commandline")
    assert [str(rule) for rule in rules] == [
        "devices/video",
        "cpu/feature@policy=require|disable@name",
        "qemu:commandline",
    ]


@pytest.mark.parametrize(
    "text",
    ["/devices", "devices/", "devices//video", "devices/*", "x:y", "cpu@", "cpu@=a", "cpu@a=", "cpu@a=b|", "cpu@a='b'"],
)
def test_a_bad_rule_is_named(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_rules(f"clock,{text}")
    assert f'"{text}"' in str(caught.value)


def test_a_list_has_limits() -> None:
    for text in ("a," * 9000, ",".join(f"a{n}" for n in range(201))):
        with pytest.raises(ValueError, match="at most"):
            parse_rules(text)


# What it admits.


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<clock offset='localtime'><timer name='tsc' present='no'/></clock>",
        "<devices><video><model type='virtio' heads='2'/></video></devices>",
        "<cpu><feature policy='require' name='vmx'/><feature policy='disable' name='x2apic'/></cpu>",
        "<devices/><cpu/>",
    ],
)
def test_what_the_list_names_is_admitted_with_what_is_inside(text: str) -> None:
    allow(text)


@pytest.mark.parametrize(
    ("text", "element", "words"),
    [
        ("<pm/>", "pm", "allows devices/video, cpu/feature@policy=require|disable, clock"),
        ("<devices><sound/></devices>", "devices/sound", "allows devices/video"),
        ("<video/>", "video", "allows devices/video"),
        ("<cpu><feature policy='force'/></cpu>", "cpu/feature", 'the attribute policy is "force"'),
        ("<cpu><feature name='vmx'/></cpu>", "cpu/feature", "the attribute policy is missing"),
        ("<cpu mode='host-passthrough'><feature policy='require'/></cpu>", "cpu", "the attribute mode"),
        ("<cpu>x<feature policy='require'/></cpu>", "cpu", "only bare"),
        ("<Clock/>", "Clock", "allows"),
        ("<devices>\n<Video/></devices>", "devices/Video", "line 2"),
    ],
)
def test_a_refusal_names_the_element_and_the_rule(text: str, element: str, words: str) -> None:
    error = refusal(text)
    assert error.reason == "EXTRA_CONFIG_NOT_ALLOWED"
    assert error.metadata["element"] == element
    assert words in error.message
    assert error.metadata["rule"]


def test_an_empty_list_admits_nothing() -> None:
    assert "allows nothing" in refusal("<clock/>", rules="").message


def test_rules_for_one_path_are_alternatives() -> None:
    rules = "cpu@mode=host-model,cpu@mode=host-passthrough@migratable=on"
    allow("<cpu mode='host-model'/>", rules)
    allow("<cpu mode='host-passthrough' migratable='on'/>", rules)
    refusal("<cpu mode='host-passthrough'/>", rules)


def test_a_rule_for_an_inner_element_holds_even_inside_an_admitted_one() -> None:
    rules = "cpu,cpu/feature@policy=disable"
    allow("<cpu mode='host-model'><feature policy='disable' name='vmx'/><maxphysaddr mode='passthrough'/></cpu>", rules)
    assert refusal("<cpu><feature policy='require' name='vmx'/></cpu>", rules).metadata["element"] == "cpu/feature"


# What is Ostler's, and what reaches the host.


@pytest.mark.parametrize(
    "text", ["<name>x</name>", "<uuid/>", "<metadata/>", "<memory>1</memory>", "<vcpu>9</vcpu>", "<os><type/></os>"]
)
def test_what_ostler_sets_itself_is_refused_to_everybody(text: str) -> None:
    error = refusal(text, rules="name,uuid,metadata,memory,vcpu,os", host_access=True)
    assert error.reason == "EXTRA_CONFIG_OWNED"


REACHES_THE_HOST = [
    "<devices><disk type='file'><source file='/etc/shadow'/><target dev='vdz'/></disk></devices>",
    "<devices><filesystem><source dir='/'/><target dir='x'/></filesystem></devices>",
    "<devices><hostdev mode='subsystem' type='pci'/></devices>",
    "<devices><emulator>/bin/sh</emulator></devices>",
    "<devices><interface type='ethernet'><script path='/bin/sh'/></interface></devices>",
    "<devices><interface type='bridge'><source bridge='management'/></interface></devices>",
    "<devices><graphics type='vnc' listen='0.0.0.0'/></devices>",
    "<devices><serial type='file'><source path='/etc/passwd'/></serial></devices>",
    "<devices><console type='dev'><source path='/dev/sda'/></console></devices>",
    "<devices><parallel type='pipe'/></devices>",
    "<devices><channel type='unix'><source mode='bind' path='/run/x'/></channel></devices>",
    "<devices><channel type='file'/></devices>",
    "<devices><channel type='unix'><target type='virtio' name='../../x'/></channel></devices>",
    "<devices><video><alias name='ua-../x'/></video></devices>",
    "<clock offset='timezone' timezone='../../etc/shadow'/>",
    "<devices><channel/></devices>",
    "<devices><rng model='virtio'><backend model='random'>/etc/shadow</backend></rng></devices>",
    "<devices><rng model='virtio'><backend model='egd' type='tcp'/></rng></devices>",
    "<devices><rng model='virtio'><backend model='builtin'>/etc/shadow</backend></rng></devices>",
    "<devices><rng model='virtio'><backend/></rng></devices>",
    "<devices><vsock/></devices>",
    "<devices><shmem name='x'/></devices>",
    "<devices><memory model='nvdimm'><source><path>/etc/shadow</path></source></memory></devices>",
    "<devices><tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm></devices>",
    "<devices><tpm><backend type='external'/></tpm></devices>",
    "<devices><tpm><backend type='emulator'><encryption secret='x'/></backend></tpm></devices>",
    "<devices><audio id='1' type='file' path='/etc/x'/></devices>",
    "<devices><sound model='ich9'><audio id='1'/></sound></devices>",
    "<devices><input type='evdev'><source dev='/dev/input/event0'/></input></devices>",
    "<devices><input type='passthrough'/></devices>",
    "<devices><input/></devices>",
    "<devices><smartcard mode='host'/></devices>",
    "<devices><redirdev bus='usb' type='tcp'/></devices>",
    "<devices><pstore/></devices>",
    "<devices><lease/></devices>",
    "<devices><video><driver name='vhostuser'/></video></devices>",
    "<devices><video><model type='virtio'><acceleration rendernode='/dev/dri/x'/></model></video></devices>",
    "<devices><watchdog model='itco' action='dump'/></devices>",
    "<devices><newdevice/></devices>",
    "<devices newattribute='x'/>",
    "<memoryBacking><source type='file'/></memoryBacking>",
    "<memoryBacking><source/></memoryBacking>",
    "<memoryBacking><locked/></memoryBacking>",
    "<os><loader>/etc/shadow</loader></os>",
    "<os><nvram template='/etc/shadow'/></os>",
    "<os><kernel>/etc/shadow</kernel></os>",
    "<os><initrd>/etc/shadow</initrd></os>",
    "<os><acpi><table type='slic'>/etc/shadow</table></acpi></os>",
    "<os><smbios mode='host'/></os>",
    "<sysinfo type='fwcfg'><entry name='opt/x' file='/etc/shadow'/></sysinfo>",
    "<sysinfo><entry name='opt/x' file='/etc/shadow'/></sysinfo>",
    "<launchSecurity type='sev'/>",
    "<seclabel type='none'/>",
    "<on_crash>coredump-restart</on_crash>",
    "<cputune><vcpusched vcpus='0' scheduler='fifo' priority='99'/></cputune>",
    "<blkiotune><device><path>/dev/sda</path></device></blkiotune>",
    "<resource><partition>/x</partition></resource>",
    "<perf><event name='cmt' enabled='yes'/></perf>",
    "<newelement/>",
    f"<qemu:commandline xmlns:qemu='{QEMU_NAMESPACE}'><qemu:arg value='-device'/></qemu:commandline>",
    f"<x:commandline xmlns:x='{QEMU_NAMESPACE}'/>",
    f"<commandline xmlns='{QEMU_NAMESPACE}'/>",
    f"<override xmlns='{QEMU_NAMESPACE}'/>",
    f"<clock><q:x xmlns:q='{QEMU_NAMESPACE}'/></clock>",
]
EVERYTHING = (
    "devices,memoryBacking,os,sysinfo,launchSecurity,seclabel,on_crash,cputune,blkiotune,resource,perf,newelement,"
    "qemu:commandline,qemu:override,clock"
)


@pytest.mark.parametrize("text", REACHES_THE_HOST)
def test_what_reaches_the_host_needs_an_admins_switch_though_the_list_names_it(text: str) -> None:
    error = refusal(text, EVERYTHING)
    assert error.reason == "EXTRA_CONFIG_HOST_ACCESS"
    assert error.metadata["rule"] == "allow.additional.vm.configuration.host.access"
    assert error.metadata["element"] in error.message
    allow(text, EVERYTHING, host_access=True)


@pytest.mark.parametrize("text", REACHES_THE_HOST)
def test_the_switch_does_not_replace_the_list(text: str) -> None:
    assert refusal(text, rules="clock/timer", host_access=True).reason == "EXTRA_CONFIG_NOT_ALLOWED"


@pytest.mark.parametrize(
    "text",
    [
        "<devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>",
        "<devices><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>",
        "<devices><rng model='virtio'><backend model='builtin'/></rng></devices>",
        "<devices><watchdog model='i6300esb' action='reset'/><panic model='isa'/><iommu model='intel'/></devices>",
        "<devices><video><model type='qxl' vram='65536'/><address type='pci' slot='0x02'/></video></devices>",
        "<devices><controller type='usb' model='qemu-xhci'/><input type='tablet' bus='usb'/></devices>",
        "<cpu mode='host-passthrough'><topology sockets='2'/><numa><cell id='0' memory='1'/></numa></cpu>",
        "<features><hyperv><relaxed state='on'/></hyperv><kvm><hidden state='on'/></kvm></features>",
        "<memoryBacking><hugepages><page size='1'/></hugepages><access mode='shared'/></memoryBacking>",
        "<os><bootmenu enable='yes'/><smbios mode='sysinfo'/></os>",
        "<sysinfo type='smbios'><system><entry name='serial'>42</entry></system></sysinfo>",
        "<cputune><vcpupin vcpu='0' cpuset='1'/></cputune>",
    ],
)
def test_what_stays_inside_the_vm_needs_the_list_only(text: str) -> None:
    allow(text, "devices,cpu,features,memoryBacking,os,sysinfo,cputune")


# DPDK.

DPDK = {
    "dpdk-numa": "<cpu mode='host-passthrough'><numa><cell id='0' memory='1' memAccess='shared'/></numa></cpu>",
    "dpdk-hugepages": "<memoryBacking><hugepages/></memoryBacking>",
    "dpdk-interface-queues": "<driver name='vhost' queues='4'/>",
    "dpdk-interface-model": "<model type='virtio'/>",
    "dpdk-vhost-user": "client",
}


def test_an_offering_carries_dpdk() -> None:
    found = check_dpdk(DPDK, 1024)
    assert found.domain.keys() == {"dpdk-numa", "dpdk-hugepages"}
    assert found.interface.keys() == {"dpdk-interface-queues", "dpdk-interface-model"}
    assert found.vhost_user is VhostUser.CLIENT
    assert check_dpdk({**DPDK, "dpdk-vhost-user": "server"}, 1024).vhost_user is VhostUser.SERVER


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("video", "<devices><video/></devices>", "ONLY_DPDK_ALLOWED"),
        ("dpdk", "<cpu/>", "ONLY_DPDK_ALLOWED"),
        ("dpdk-numa", "<memoryBacking><hugepages/></memoryBacking>", "EXTRA_CONFIG_NOT_ALLOWED"),
        ("dpdk-numa", "<cpu mode='custom'/>", "EXTRA_CONFIG_NOT_ALLOWED"),
        ("dpdk-hugepages", "<memoryBacking><locked/></memoryBacking>", "EXTRA_CONFIG_NOT_ALLOWED"),
        ("dpdk-interface-1", "<source type='unix' path='/run/x'/>", "EXTRA_CONFIG_NOT_ALLOWED"),
        ("dpdk-interface-1", "<script path='/bin/sh'/>", "EXTRA_CONFIG_NOT_ALLOWED"),
        ("dpdk-interface-1", "<driver name='vfio'/>", "EXTRA_CONFIG_NOT_ALLOWED"),
        ("dpdk-interface-1", "<interface type='vhostuser'/>", "EXTRA_CONFIG_NOT_ALLOWED"),
        ("dpdk-vhost-user", "both", "INVALID_VHOST_USER"),
        ("dpdk-vhost-user", "client", "VHOST_USER_NEEDS_SHARED_MEMORY"),
        ("dpdk-numa", "<cpu><numa><cell id='0' memory='2'/></numa></cpu>", "EXTRA_CONFIG_OWNED"),
        ("dpdk-numa", "<cpu><numa><cell id='0'/></numa></cpu>", "EXTRA_CONFIG_OWNED"),
        ("DPDK-numa", "<cpu/>", "INVALID_EXTRA_CONFIG_NAME"),
        ("dpdk-numa", "<cpu>", "XML_SYNTAX"),
    ],
)
def test_an_offering_carries_nothing_else(name: str, text: str, reason: str) -> None:
    with pytest.raises((FailedPreconditionError, InvalidArgumentError)) as caught:
        check_dpdk({name: text}, 1024)
    assert caught.value.reason == reason


# Names.


def test_keys_of_details_that_imitate_extra_configuration_are_reserved() -> None:
    assert all(
        map(is_reserved, ("extraconfig", "extraconfig-1", "ExtraConfig-x", " extraconfig", "extraconfiguration"))
    )
    assert not is_reserved("config-extra")


def test_names_are_plain() -> None:
    assert check_config_name("name", "gpu-1") == "gpu-1"
    for bad in ("", "-x", "X", "a b", "a" * 64, "é"):
        with pytest.raises(InvalidArgumentError):
            check_config_name("name", bad)
