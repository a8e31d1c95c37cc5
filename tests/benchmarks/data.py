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
from urllib.parse import quote


@dataclass(frozen=True)
class Source:
    """One public file.

    Args:
        name: path below the data folder.
        repository: public repository that holds it.
        path: path inside that repository; empty where it was packed from several files and can only be copied.
        sha256: of the content.
        licence: of the repository.
        ref: branch or commit that has it.
    """

    name: str
    repository: str
    path: str
    sha256: str
    licence: str
    ref: str = "main"

    @property
    def url(self) -> str:
        """Address of the raw file."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.ref}/{quote(self.path)}"


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
    "crossed_barrel": Source(
        name="pvlab/Crossed_barrel_dataset.csv",
        repository="PV-Lab/Benchmarking",
        path="datasets/Crossed barrel_dataset.csv",
        sha256="2c01f875f3c210e986ca6142bf20f417884c2ad7d6f008c2fc574b44a3d5f606",
        licence="MIT",
        ref="b653ddabe53f6c95c3fb9eb71f1dbf714f82b47d",
    ),
    "agnp": Source(
        name="pvlab/AgNP_dataset.csv",
        repository="PV-Lab/Benchmarking",
        path="datasets/AgNP_dataset.csv",
        sha256="d25ec6fbb178bbb1b58350ff1c933034b409cdced4f9b20f7d7be61ffaed0d08",
        licence="MIT",
        ref="b653ddabe53f6c95c3fb9eb71f1dbf714f82b47d",
    ),
    "perovskite_films": Source(
        name="pvlab/Perovskite_dataset.csv",
        repository="PV-Lab/Benchmarking",
        path="datasets/Perovskite_dataset.csv",
        sha256="9e9c5c2c698902ae17ba5e8f037c7f10d5889c02a419fe3897e4724f805263b9",
        licence="MIT",
        ref="b653ddabe53f6c95c3fb9eb71f1dbf714f82b47d",
    ),
    "oer": Source(
        name="oer/oer_plate_3496.csv",
        repository="aspuru-guzik-group/olympus",
        path="src/olympus/datasets/dataset_oer_plate_3496/data.csv",
        sha256="3c70049ccfdd11bc05d1777421fc4c724d2b2d4a86c12b8759079609912cfade",
        licence="MIT",
    ),
    "oer_3851": Source(
        name="oer/oer_plate_3851.csv",
        repository="aspuru-guzik-group/olympus",
        path="src/olympus/datasets/dataset_oer_plate_3851/data.csv",
        sha256="e2212be9cc5c866fa98dcb9513fca63946003f317688cb025bd0d648d8c3caab",
        licence="MIT",
    ),
    "redoxmers": Source(
        name="redoxmers/redoxmers.csv",
        repository="aspuru-guzik-group/olympus",
        path="src/olympus/datasets/dataset_redoxmers/data.csv",
        sha256="89465c7710966da17296026575fd907b98cf93cfb81d3351efbf642b811abbb5",
        licence="MIT",
    ),
    "redoxmers_descriptors": Source(
        name="redoxmers/descriptors.csv",
        repository="aspuru-guzik-group/olympus",
        path="src/olympus/datasets/dataset_redoxmers/descriptors.csv",
        sha256="3880d20b0ce2254b933308d245150da494058426361a3be3a086f0df0c5b25d1",
        licence="MIT",
        ref="20a79dd2d4574c45c1fbfc5bbe2d00651a07d446",
    ),
    "direct_arylation": Source(
        name="reactions/direct_arylation.csv",
        repository="emdgroup/baybe",
        path="benchmarks/data/direct_arylation/data.csv",
        sha256="0aac33253d799c2e5f978b2962c34f9b57ba4863dae408721cabe8fa815d74ea",
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
