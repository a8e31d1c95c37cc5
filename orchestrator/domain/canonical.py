"""Canonical JSON, hashes and seeds: the identity of everything that Matloop stores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
JsonObject = dict[str, Json]
Array = npt.NDArray[np.float64]
Value = float | int | str
"""A process parameter: continuous, integer or a named choice."""

TARGET = "target"
"""Name of the fidelity that the objectives are about."""


EARLIER = "earlier:"
"""What the fidelities of results of earlier campaigns begin with; the campaign's name follows."""


def closed_at(candidate_id: str, fidelity: str) -> str:
    """Name a candidate that must not be proposed at one fidelity; at the target that is its id itself."""
    return candidate_id if fidelity == TARGET else f"{candidate_id}@{fidelity}"


def canonical_json(content: Any) -> str:
    """Write JSON in the one way that is hashed: sorted keys, no spaces, no NaN, no -0.0.

    Args:
        content: JSON content; mappings and sequences of any kind are accepted.

    Returns:
        The text.

    Raises:
        ValueError: the content holds NaN or an infinity.
    """
    return json.dumps(_plain(content), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def sha256(content: bytes | str) -> str:
    """Return the SHA-256 of bytes, or of text as UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def derive_seed(campaign_seed: int, number: int, purpose: str) -> int:
    """Derive the seed of one random purpose: SHA-256(campaign seed, number, purpose).

    Args:
        campaign_seed: `seed` of the campaign file.
        number: decision or fit number.
        purpose: what the randomness is for, such as ``select``.

    Returns:
        A seed below 2**63.
    """
    return int(sha256(f"{campaign_seed}/{number}/{purpose}")[:15], 16)


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, float):
        return content + 0.0  # -0.0 becomes 0.0
    return content


def frozen(mapping: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Return a read-only copy of a mapping."""
    return MappingProxyType(dict(mapping or {}))
