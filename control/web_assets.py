"""`make web-assets`: fetches the console's scripts and those of its tests, at the versions pinned here, with npm.

The files are kept in the tree, so that neither a build nor an installation needs npm. To take a newer version, change
it here with its digest (`npm view PACKAGE@VERSION dist.integrity`), run this, and read the diff.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSOLE = ROOT / "control/ostler_control/web/static/vendor"
TESTS = ROOT / "tests/unit/browser/vendor"


@dataclass(frozen=True)
class Asset:
    """A package of npm. sha512: its digest, as npm shows it; files: path in the package -> name in the folder; scripts:
    folders of the package whose scripts are kept as they lie there."""

    package: str
    version: str
    sha512: str
    folder: Path
    files: dict[str, str]
    scripts: tuple[str, ...] = ()


ASSETS = (
    Asset(
        "idiomorph",
        "0.8.0",
        "R47JBL+6jHDQvcnbppIUtXXcxi5h6+wuCEEZXnRhUltsgzPFKzThL5PuHppP9ypJuy+7WawcY1TsSBD/iQbMhw==",
        CONSOLE,
        {"dist/idiomorph.min.js": "idiomorph.min.js", "LICENSE": "idiomorph.LICENSE"},
    ),
    Asset(
        "@xterm/xterm",
        "6.0.0",
        "TQwDdQGtwwDt+2cgKDLn0IRaSxYu1tSUjgKarSDkUM0ZNiSRXFpjxEsvc/Zgc5kq5omJ+V0a8/kIM2WD3sMOYg==",
        CONSOLE,
        {"lib/xterm.js": "xterm.js", "css/xterm.css": "xterm.css", "LICENSE": "xterm.LICENSE"},
    ),
    Asset(
        "@novnc/novnc",
        "1.7.0",
        "ucEJOx4T2avIRCleodk7YobZj5O2Ga2AeLfQ69A/yjG9HHba2+PDgwSkN3FttrmG+70ZGx21sElNFouK13RzyA==",
        CONSOLE / "novnc",
        {"LICENSE.txt": "LICENSE", "docs/LICENSE.MPL-2.0": "LICENSE.MPL-2.0", "vendor/pako/LICENSE": "pako.LICENSE"},
        ("core", "vendor/pako/lib"),
    ),
    Asset(
        "axe-core",
        "4.14.1",
        "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
        TESTS,
        {"axe.min.js": "axe.min.js", "LICENSE": "axe.LICENSE"},
    ),
)


def fetch(asset: Asset, directory: Path) -> None:
    """Writes an asset's files. Raises subprocess.CalledProcessError, and ValueError for another digest."""
    name = f"{asset.package}@{asset.version}"
    argv = ["npm", "pack", "--silent", "--pack-destination", str(directory), name]
    packed = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    archive = directory / packed
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != asset.sha512:
        raise ValueError(f"{name} has the digest {found}, not {asset.sha512}")
    asset.folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        scripts = [
            path
            for name in tar.getnames()
            if (path := name.removeprefix("package/")).startswith(tuple(f"{folder}/" for folder in asset.scripts))
        ]
        for path, target in {**asset.files, **{path: path for path in scripts if path.endswith(".js")}}.items():
            member = tar.extractfile(f"package/{path}")
            if member is None:
                raise ValueError(f"{name} has no file {path}")
            # Maps of the sources are not kept; browsers would ask for them.
            lines = member.read().split(b"\n")
            kept = [line for line in lines if not line.startswith(b"//# sourceMappingURL=")]
            (asset.folder / target).parent.mkdir(parents=True, exist_ok=True)
            (asset.folder / target).write_bytes(b"\n".join(kept))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        for asset in ASSETS:
            fetch(asset, Path(work))
            print(f"{asset.package} {asset.version}")
