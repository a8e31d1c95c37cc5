"""The JSON Schema of campaign files, for editors: ``python -m orchestrator.config.schema_file --write``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from orchestrator.config.schema import CampaignConfig

SCHEMA_FILE = Path("campaigns") / "schema.json"
"""Where the schema lies, from the root of the repository."""


def schema_json() -> str:
    """Return the JSON Schema of a campaign file as text."""
    schema = CampaignConfig.model_json_schema(by_alias=True)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Matloop campaign file"}
    return json.dumps({**schema, **head}, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the schema file (``--write``), or say whether it is current."""
    current = schema_json()
    if arguments == ["--write"]:
        SCHEMA_FILE.write_text(current, encoding="utf-8")
        return 0
    if SCHEMA_FILE.is_file() and SCHEMA_FILE.read_text(encoding="utf-8") == current:
        return 0
    sys.stderr.write(f"{SCHEMA_FILE} is not current; run: python -m orchestrator.config.schema_file --write\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
