"""What can be screened: files of any size, and the search spaces of campaigns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator import plugins
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import canonical_json, sha256
from orchestrator.errors import SpaceError
from orchestrator.materials.items import Item
from orchestrator.materials.streams import Columns, fingerprint, kind_of, stream
from orchestrator.protocols import FiniteSpace
from orchestrator.screening.screen import Pool


def pool_of_file(path: Path, columns: Columns) -> Pool:
    """Screen a file or folder.

    Args:
        path: see `orchestrator.materials.streams`.
        columns: of tables.

    Returns:
        The pool; it is read once here for its hash.

    Raises:
        MaterialError: there is no such file, or its suffix is not known.
    """
    kind_of(path)
    identity = canonical_json([fingerprint(path), columns.structure, columns.formula, columns.id])
    return Pool(lambda: stream(path, columns), sha256(identity), path.name)


def pool_of_space(config: CampaignConfig, base: str | None, allowed_modules: Sequence[str]) -> Pool:
    """Screen the candidates of a campaign's search space, under their own ids.

    Args:
        config: the campaign.
        base: folder that relative paths start from.
        allowed_modules: see `plugins.load`.

    Returns:
        The pool.

    Raises:
        SpaceError: the space has no list of candidates.
    """
    space = plugins.build(
        "spaces", config.space.use, config.space.options, base=base, allowed_modules=tuple(allowed_modules)
    )
    if not isinstance(space, FiniteSpace):
        message = (
            f"the space {config.space.use!r} of {config.name} has no list of candidates; write the points to predict"
            " into a CSV with one column a parameter, and name that file"
        )
        raise SpaceError(message)

    def items() -> Iterator[Item]:
        candidates = space.candidates()
        for i, one in enumerate(candidates):
            yield Item(i + 1, one.id, one.label, "candidate", json.dumps(one.to_json()), i / len(candidates))

    identity = sha256(canonical_json([one.id for one in space.candidates()]))
    return Pool(items, identity, f"the space of {config.name}")
