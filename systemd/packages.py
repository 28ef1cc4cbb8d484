"""`make packages`: builds ostler.deb, ostler-control.deb and ostler-agent.deb into dist/.

Debian's own tools do it (debhelper, see systemd/debian/); this lays out the source tree that they expect: the project's
files, with the folder `debian` at its top and the units, users and directories under debhelper's names.
"""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
FOLDERS = ("agent", "common", "control", "protos", "systemd")
FILES = ("LICENSE", "README.md", "constraints.txt", "pyproject.toml")
# Ours -> debhelper's name.
UNITS = {
    "ostler-control.service": "ostler-control.service",
    "ostler-agent.service": "ostler-agent.ostler-agent.service",
    "ostler-migration-gateway.service": "ostler-agent.ostler-migration-gateway.service",
    "ostler-libvirt-keys.service": "ostler-agent.ostler-libvirt-keys.service",
    "ostler-guardian.service": "ostler-agent.ostler-guardian.service",
    "ostler-vlan-bridges.path": "ostler-agent.ostler-vlan-bridges.path",
    "ostler-vlan-bridges.service": "ostler-agent.ostler-vlan-bridges.service",
    "sysusers.conf": "ostler-control.sysusers",
    "tmpfiles.conf": "ostler-agent.tmpfiles",
}


def version() -> str:
    """The project's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def sources() -> list[Path]:
    """The files that packages are built of, relative to the project. Stubs and caches are built anew."""
    found = [Path(name) for name in FILES]
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            relative = path.relative_to(ROOT)
            stub = relative.parts[:2] == ("common", "ostler") and relative.parts[2:3] != ("client",)
            generated = stub or "__pycache__" in relative.parts
            if path.is_file() and not generated:
                found.append(relative)
    return found


def digest(release: str) -> str:
    """Changes when the packages would."""
    found = hashlib.sha256(release.encode())
    for path in sources():
        found.update(f"{path}\0{hashlib.sha256((ROOT / path).read_bytes()).hexdigest()}\0".encode())
    return found.hexdigest()


def build(target: Path = DIST, release: str = "") -> list[Path]:
    """Builds the packages into `target` unless the same are there; returns their paths.

    release: another version than pyproject's, for tests of upgrades. Raises subprocess.CalledProcessError.
    """
    release = release or version()
    mark = target / f"packages-{release}.digest"
    packages = [
        target / f"{name}_{release}_{architecture()}.deb" for name in ("ostler", "ostler-agent", "ostler-control")
    ]
    wanted = digest(release)
    if mark.exists() and mark.read_text() == wanted and all(package.exists() for package in packages):
        return packages
    target.mkdir(exist_ok=True, parents=True)
    tree = target / f"ostler-{release}"
    shutil.rmtree(tree, ignore_errors=True)
    lay_out(tree, release)
    environment = {**os.environ, "DEB_BUILD_OPTIONS": "nocheck", "PYTHONPATH": ""}
    subprocess.run(["dpkg-buildpackage", "-b", "-us", "-uc"], cwd=tree, check=True, env=environment)
    shutil.rmtree(tree)
    mark.write_text(wanted)
    return packages


def lay_out(tree: Path, release: str) -> None:
    """Writes the source tree."""
    for path in sources():
        copy = tree / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, copy)
    pyproject = (tree / "pyproject.toml").read_text()
    (tree / "pyproject.toml").write_text(pyproject.replace(f'version = "{version()}"', f'version = "{release}"'))
    debian = tree / "debian"
    (tree / "systemd/debian").rename(debian)
    for ours, theirs in UNITS.items():
        shutil.copy2(ROOT / "systemd" / ours, debian / theirs)
    now = email.utils.format_datetime(datetime.datetime.now(datetime.UTC))
    (debian / "changelog").write_text(
        f"ostler ({release}) unstable; urgency=medium\n\n  * See CHANGELOG.md of the project.\n\n"
        f" -- Ostler developers <maintainers@ostler.example>  {now}\n"
    )


def architecture() -> str:
    """Debian's name for this machine's processor."""
    argv = ["dpkg", "--print-architecture"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def check(packages: list[Path]) -> int:
    """Prints what lintian finds; returns its exit code."""
    argv = ["lintian", "--allow-root", "--fail-on=error,warning", "--tag-display-limit=0", *map(str, packages)]
    return subprocess.run(argv, check=False).returncode


if __name__ == "__main__":
    built = build()
    print("\n".join(str(package) for package in built))
    sys.exit(check(built))
