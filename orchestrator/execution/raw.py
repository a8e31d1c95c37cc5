"""The raw bytes of a result: what is made durable before anything else happens.

The numbers are kept exactly as the driver gave them, NaN and infinities included, as text where JSON has no number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from orchestrator.domain import Attachment, Result
from orchestrator.errors import BadData

LARGEST_FILE = 10_000_000_000
"""Bytes of all attachments of one result; more is a reader that ran away, and fills the disk for everybody."""
LARGEST_TEXT = 64_000_000
"""Bytes of everything else: numbers, structures, notes."""


def pack(result: object) -> tuple[bytes, tuple[Attachment, ...]]:
    """Turn whatever a driver returned into bytes.

    Args:
        result: a `Result`; anything else is kept as its text.

    Returns:
        JSON, and the attachments that belong beside it.

    Raises:
        BadData: it is larger than any result can be.
    """
    if isinstance(result, Result):
        try:
            size = sum(len(one.content) for one in result.attachments)
            if size > LARGEST_FILE:
                message = f"the attachments have {size / 1e9:.3g} GB; at most {LARGEST_FILE / 1e9:g} GB are kept"
                raise BadData(message)
            return _small(_dump(result.to_json())), tuple(result.attachments)
        except (AttributeError, TypeError, ValueError):  # a driver put something odd into a field: keep its text
            pass
    return _small(_dump({"not_a_result": repr(result)})), ()


def _small(content: bytes) -> bytes:
    if len(content) > LARGEST_TEXT:
        message = f"the result has {len(content) / 1e6:.3g} MB of text; at most {LARGEST_TEXT / 1e6:g} MB are kept"
        raise BadData(message)
    return content


def unpack(content: bytes) -> tuple[Result, tuple[tuple[str, str, str], ...]]:
    """Turn stored bytes into the result again.

    Args:
        content: from `pack`.

    Returns:
        The result without its attachments, and the name, media type and hash of each attachment.

    Raises:
        BadData: the driver had not returned a result, or one with text where numbers belong.
    """
    stored = json.loads(content)
    if "not_a_result" in stored:
        message = f"the driver returned {stored['not_a_result']}; a Result was expected"
        raise BadData(message)
    try:
        attachments = tuple(
            (str(name), str(media_type), str(digest)) for name, media_type, digest in stored["attachments"]
        )
        return Result.from_json(stored), attachments
    except (KeyError, TypeError, ValueError) as error:
        message = f"what came back cannot be read as a result: {error}"
        raise BadData(message) from error


def _dump(content: Mapping[str, Any]) -> bytes:
    return json.dumps(_spelled(content), sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1).encode()


def _spelled(content: Any) -> Any:
    if isinstance(content, bool | int):
        return content
    if isinstance(content, Real):  # numpy's numbers among them
        number = float(content)
        return number if math.isfinite(number) else repr(number)
    if isinstance(content, Mapping):
        return {str(key): _spelled(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_spelled(value) for value in content]
    return content
