"""Public data of the benchmarks: taken from a folder beside the project, else fetched, then checked.

Run `make data`. Nothing here is part of the tests or of the demo.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One public file.

    Args:
        name: path below the data folder.
        repository: public repository that holds it.
        path: path inside that repository; empty where it was packed from several files and can only be copied.
        sha256: of the content.
        licence: of the repository.
    """

    name: str
    repository: str
    path: str
    sha256: str
    licence: str

    @property
    def url(self) -> str:
        """Address of the raw file."""
        return f"https://raw.githubusercontent.com/{self.repository}/main/{self.path}"


SOURCES = {
    "discovery": Source(
        name="perovskites/perov5_val.csv",
        repository="txie-93/cdvae",
        path="data/perov_5/val.csv",
        sha256="326f401219901270374b71e2faff63df3a29a99fd26f469993b9f476b693daf2",
        licence="MIT",
    ),
    "phonons": Source(
        name="phonons/matbench_phonons.json.gz",
        repository="CompRhys/aviary",
        path="tests/data/matbench_phonons.json.gz",
        sha256="4db551f21ec5f577e6202725f10e34dfc509aa7df3a6bdaac497da7f6dbbb9b3",
        licence="MIT",
    ),
    "jarvis": Source(
        name="jarvis/dft3d_2500.tar.gz",
        repository="LeMaterial/lemat-genbench",
        path="",  # packed from the repository's folder of JARVIS-DFT crystals: no single file there
        sha256="6425f9dcfcc59cfb3ee644b3387461b59c19238a3fa509d27f8fa1c34d07548a",
        licence="Apache-2.0",
    ),
}
SOURCES["perovskites"] = SOURCES["discovery"]
"""Benchmark → the file it is measured on."""


def provide(source: Source, beside: Path, to: Path) -> Path:
    """Put one file into the data folder and check it.

    Args:
        source: which file.
        beside: folder where it may lie already.
        to: data folder.

    Returns:
        Where it is.

    Raises:
        SystemExit: what came is not what was expected.
    """
    target = to / source.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        if (beside / source.name).exists():
            shutil.copyfile(beside / source.name, target)
        elif not source.path:
            message = f"{source.name} cannot be fetched as one file; put it below {beside} ({source.repository})"
            raise SystemExit(message)
        else:
            sys.stdout.write(f"fetching {source.url}\n")
            urllib.request.urlretrieve(source.url, target)  # noqa: S310  a fixed https address
    seen = hashlib.sha256(target.read_bytes()).hexdigest()
    if seen != source.sha256:
        target.unlink()
        message = f"{source.name}: expected SHA-256 {source.sha256}, got {seen}; the file was removed"
        raise SystemExit(message)
    return target


def main() -> None:
    """Provide every file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--beside", type=Path, default=Path("../shared/data"))
    parser.add_argument("--to", type=Path, default=Path("matloop-data/public"))
    arguments = parser.parse_args()
    for source in SOURCES.values():
        if not source.path and not (arguments.beside / source.name).exists():
            sys.stdout.write(f"{source.name} is left out: {source.repository} has it in many files\n")
            continue
        sys.stdout.write(f"{provide(source, arguments.beside, arguments.to)}  ok\n")


if __name__ == "__main__":
    main()
