"""The command `ostler-agent`.

Exit codes: 0 success; 1 failure; 2 wrong usage or configuration; 3 this host has not joined or has bad credentials.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import ostler_common.logging
from ostler_common import notify, tracing
from ostler_common.config import ConfigError, load
from ostler_common.errors import OstlerError

from ostler_agent.config import DEFAULT_PATH, AgentConfig

FAILED, USAGE, NOT_JOINED = 1, 2, 3


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code; an error is one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        config = load(AgentConfig, options.config or (DEFAULT_PATH if DEFAULT_PATH.exists() else None))
        if options.state_dir:
            config = config.model_copy(update={"state_dir": options.state_dir.absolute()})
        ostler_common.logging.setup(config.log_level, config.log_json)
        code: int = options.command(config, options)
    except ConfigError as error:
        return _fail(error.message, USAGE)
    except OstlerError as error:
        return _fail(error.message, NOT_JOINED if error.reason in ("NOT_JOINED", "BAD_CREDENTIALS") else FAILED)
    except OSError as error:
        return _fail(str(error), FAILED)
    return code


def run(config: AgentConfig, options: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT; SIGHUP reloads."""
    from ostler_agent.agent import Agent

    wake, stop, reload = threading.Event(), threading.Event(), threading.Event()

    def on_signal(number: int, frame: object) -> None:
        (reload if number == signal.SIGHUP else stop).set()
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    tracing.enable_in_daemon("ostler-agent")
    agent = Agent(config)
    try:
        agent.start()
    except BaseException:
        agent.stop()  # its threads would keep the process alive
        raise
    status = f"serving as host {agent.host_id} on {config.listen}"
    notify.ready(status)
    while not stop.is_set():
        notify.alive()
        wake.wait(notify.watchdog_interval_s())
        wake.clear()
        if reload.is_set():
            reload.clear()
            notify.reloading()
            agent.reload()
            notify.ready(status)
    notify.stopping()
    agent.stop()
    return 0


def migration_gateway(config: AgentConfig, options: argparse.Namespace) -> int:
    """Relays incoming migrations to libvirt, until SIGTERM or SIGINT."""
    from ostler_agent.credentials import CredentialsStore
    from ostler_agent.migration import gateway

    gateway.run(CredentialsStore(config.state_dir), config.listen.rpartition(":")[0].strip("[]"))
    return 0


def join(config: AgentConfig, options: argparse.Namespace) -> int:
    """Joins a fleet and installs the credentials for the hypervisor."""
    from ostler_common.token import JoinToken

    from ostler_agent import join as joining
    from ostler_agent.credentials import CredentialsStore
    from ostler_agent.guardian import run as guarding
    from ostler_agent.hypervisors import registry
    from ostler_agent.hypervisors.driver import UsesCredentials

    text = sys.stdin.readline() if options.token == "-" else options.token  # noqa: S105 (a dash is not a token)
    port = config.listen.rpartition(":")[2]
    address = options.address or config.address or f"{socket.getfqdn()}:{port}"
    driver = registry.load_configured(config)
    consumer = None
    if isinstance(driver, UsesCredentials):
        consumer = driver.credentials_consumer(registry.context(config))
    store = CredentialsStore(config.state_dir)
    credentials = joining.join(store, JoinToken.decode(text), options.control or "", address, driver.info.type)
    guarding.desk(config).set_wish(None)  # what another fleet wished for, or this one before; it says so anew
    expires = f"{credentials.expire_time:%F %T}"
    print(f"joined as host {credentials.host_id}, address {address}; the certificate expires at {expires} UTC")
    if consumer is None:
        return 0
    consumer.install(credentials)
    if options.print_hypervisor_config:
        for path, lines in consumer.settings().items():
            print(f"\n# {path}\n{lines}", end="")
    else:
        for line in consumer.configure():
            print(line)
    return 0


def probe(config: AgentConfig, options: argparse.Namespace) -> int:
    """Prints what this host can do."""
    from ostler_agent import agent

    found = agent.probe(config)
    if options.json:
        print(json.dumps(asdict(found), default=str, indent=2))
        return 0
    facts = found.hypervisor
    libvirt = f", libvirt {facts.libvirt_version}" if facts.libvirt_version else ""
    print(f"{found.driver.display_name} {facts.hypervisor_version}{libvirt}")
    print(f"CPU {facts.cpu_model}, {facts.cpus} at {facts.cpu_mhz} MHz, NUMA nodes {facts.numa_nodes}")
    print(f"memory {facts.memory_bytes >> 20} MiB; bridges {' '.join(found.bridges) or '-'}")
    for entry in found.probes:
        print(f"{'yes' if entry.ok else 'NO ':<4}{entry.name:<34}{entry.detail if entry.ok else entry.reason}")
    return 0


def mount_key_directory(config: AgentConfig, options: argparse.Namespace) -> int:
    """Keeps libvirt's keys of running VMs in memory only."""
    from ostler_agent.hypervisors.libvirt import key_directory
    from ostler_agent.hypervisors.libvirt.options import LibvirtOptions

    directory = LibvirtOptions.model_validate(config.driver_options).state_dir
    done = key_directory.protect(directory)
    print(f"{directory}: keys are in memory only{'' if done else ' already'}")
    return 0


def make_vlan_bridges(config: AgentConfig, options: argparse.Namespace) -> int:
    """Creates the bridges of VLANs that the agent has asked for."""
    from ostler_agent import vlan_requests

    return FAILED if vlan_requests.serve() else 0


def guardian(config: AgentConfig, options: argparse.Namespace) -> int:
    """Ends this host's VMs when it can neither renew its lease nor hear the control plane."""
    from ostler_agent.guardian import run as guarding

    guarding.run(config)
    return 0


def driver_list(config: AgentConfig, options: argparse.Namespace) -> int:
    """Prints the installed drivers."""
    from ostler_agent.conformance import command

    return command.list_drivers(config, options)


def driver_check(config: AgentConfig, options: argparse.Namespace) -> int:
    """Checks a driver."""
    from ostler_agent.conformance import command

    return command.check(config, options)


def pool_list(config: AgentConfig, options: argparse.Namespace) -> int:
    """Prints the installed pool types."""
    from ostler_agent.conformance import pool_command

    return pool_command.list_pools(config, options)


def pool_check(config: AgentConfig, options: argparse.Namespace) -> int:
    """Checks a pool type."""
    from ostler_agent.conformance import pool_command

    return pool_command.check(config, options)


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default {DEFAULT_PATH}, if it exists)")
    shared.add_argument("--state-dir", type=Path, metavar="DIR", help="overrides the setting state_dir")
    parser = argparse.ArgumentParser(prog="ostler-agent", description="Ostler's agent: runs on every hypervisor host.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serving = commands.add_parser("run", parents=[shared], help="serve the control plane")
    serving.set_defaults(command=run)
    joining = commands.add_parser("join", parents=[shared], help="join a fleet, or rejoin it")
    joining.add_argument(
        "control",
        nargs="?",
        metavar="ADDRESS",
        help="the control plane's address, host[:port] (default: from the token)",
    )
    joining.add_argument(
        "--token", required=True, help="the token that `ostler host token` printed; - reads it from standard input"
    )
    joining.add_argument("--address", metavar="HOST:PORT", help="address at which the control plane reaches this agent")
    joining.add_argument(
        "--print-hypervisor-config",
        action="store_true",
        help="print the hypervisor's settings instead of writing them",
    )
    joining.set_defaults(command=join)
    probing = commands.add_parser("probe", parents=[shared], help="probe what this host can do, and print it")
    probing.add_argument("--json", action="store_true", help="print everything as JSON")
    probing.set_defaults(command=probe)
    mounting = commands.add_parser(
        "mount-key-directory",
        parents=[shared],
        help="keep libvirt's keys of running VMs in memory only; ostler-libvirt-keys.service runs this before libvirtd",
    )
    mounting.set_defaults(command=mount_key_directory)
    bridging = commands.add_parser(
        "make-vlan-bridges",
        parents=[shared],
        help="create the bridges of VLANs that the agent asks for; ostler-vlan-bridges.path starts this",
    )
    bridging.set_defaults(command=make_vlan_bridges)
    relaying = commands.add_parser(
        "migration-gateway",
        parents=[shared],
        help="admit the sources of incoming migrations to libvirt, and nobody else, on port 16514",
    )
    relaying.set_defaults(command=migration_gateway)
    guarding = commands.add_parser(
        "guardian",
        parents=[shared],
        help="end this host's VMs when it can neither renew its lease on shared storage nor hear the control plane",
    )
    guarding.set_defaults(command=guardian)
    _add_driver_commands(commands.add_parser("driver", help="list and check hypervisor drivers"), shared)
    _add_pool_commands(commands.add_parser("pool", help="list and check storage pool types"), shared)
    return parser


def _add_pool_commands(parser: argparse.ArgumentParser, shared: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", parents=[shared], help="list the installed pool types")
    listing.set_defaults(command=pool_list)
    checking = commands.add_parser(
        "check",
        parents=[shared],
        help="check whether a pool type meets the pool contract",
        description="Checks a pool type on a pool of this host with its own volumes. Other volumes are unaffected, but "
        "the pool is released in between: do not use one that VMs use.",
        epilog="example: ostler-agent pool check nfs --source server:/export",
    )
    checking.add_argument("name", metavar="NAME", help="the pool type, see `ostler-agent pool list`")
    checking.add_argument("--path", default="", metavar="DIR", help="the pool's directory or mount point")
    checking.add_argument("--source", default="", metavar="SOURCE", help="source of a network pool, server:/export")
    checking.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="set an option of the pool; repeatable"
    )
    checking.add_argument(
        "--password-file", type=Path, metavar="FILE", help="the pool's password, first line; - reads standard input"
    )
    checking.add_argument("--only", default="*", metavar="PATTERN", help='run only matching checks, e.g. "volume.*"')
    checking.set_defaults(command=pool_check)
    for command in (listing, checking):
        command.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")


def _add_driver_commands(parser: argparse.ArgumentParser, shared: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", parents=[shared], help="list the installed drivers")
    listing.set_defaults(command=driver_list)
    checking = commands.add_parser(
        "check",
        parents=[shared],
        help="check whether a driver meets the driver contract",
        description="Checks a driver on this host with its own VMs in a scratch directory. Other VMs are not affected.",
        epilog="example: ostler-agent driver check qemu --option accel=tcg --image guest.qcow2 --ready login:",
    )
    checking.add_argument("name", metavar="NAME", help="the driver's name, see `ostler-agent driver list`")
    checking.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="set a driver option; repeatable"
    )
    checking.add_argument(
        "--detail",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a detail of every VM, which the driver states; repeatable",
    )
    checking.add_argument(
        "--image", type=Path, metavar="FILE", help="a bootable disk image, for the checks that need a guest"
    )
    checking.add_argument(
        "--image-format", choices=("qcow2", "raw"), default="qcow2", help="format of the image (default qcow2)"
    )
    checking.add_argument(
        "--ready",
        default="login:",
        metavar="TEXT",
        help="text that the guest prints on its console once it has booted (default login:)",
    )
    checking.add_argument("--bridge", default="", metavar="NAME", help="a bridge for VMs with network interfaces")
    checking.add_argument(
        "--only", default="*", metavar="PATTERN", help='run only the checks that match, e.g. "restart.*"'
    )
    checking.add_argument(
        "--as-unit", action="store_true", help="run the checks in the sandbox of ostler-agent.service, by systemd-run"
    )
    checking.add_argument("--unit-kill-mode", default="", help=argparse.SUPPRESS)
    checking.add_argument("--repeat", type=int, default=1, metavar="N", help="run each check N times (default 1)")
    checking.add_argument(
        "--scratch",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 (mkdtemp makes the directory)
        metavar="DIR",
        help="parent of the scratch directory (default /var/tmp)",
    )
    checking.set_defaults(command=driver_check)
    checking.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    listing.add_argument(
        "-o", "--output", choices=("table", "json", "markdown"), default="table", help="default: table"
    )


def _fail(message: str, code: int) -> int:
    print(f"ostler-agent: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
