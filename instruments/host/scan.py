"""`matloop lab scan http://HOST:PORT/NAME`: what an instrument behind a host can do, for people and as a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from instruments.host import descriptions
from instruments.host.descriptions import Declared


def scan(url: str, name: str, path: Path, *, ca: Path | None = None, keep: bool = False) -> Iterator[str]:
    """Ask a host what an instrument can do.

    Args:
        url: of the instrument.
        name: that it shall have in the lab file.
        path: of the description file.
        ca: certificate to trust.
        keep: whether to write the file.

    Yields:
        Lines for people, with those of the lab file.

    Raises:
        NotConnected: nobody answers, or the token is wrong.
    """
    declared = descriptions.describe_host(url, ca=ca)
    if keep:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptions.write(declared, path)
    yield from _table(declared, url)
    yield ""
    yield "# into lab.yaml"
    yield "instruments:"
    yield f"  {name}:"
    yield "    use: remote"
    options = f"url: {url}, description: {path.as_posix()}"
    yield f"    options: {{{options}{f', ca: {ca}' if ca else ''}}}"


def _table(declared: Declared, url: str) -> Iterator[str]:
    described = declared.description
    yield f"{url}, {described.recovery.value}, {described.slots} slots, {declared.sha256[:12]}"
    for capability in described.capabilities:
        yield f"  {capability.name}, usually {capability.typical_s:g} s, at most {capability.longest_s:g} s"
        for p in capability.parameters:
            yield f"    ← {p.name}: " + (", ".join(p.choices) if p.choices else f"{p.low:g} to {p.high:g} {p.unit}")
        for output in capability.outputs:
            yield f"    → {output.name}: {output.unit if output.kind == 'number' else output.kind}"
