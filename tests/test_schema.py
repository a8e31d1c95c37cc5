"""The JSON Schema of campaign files is current, and editors can use it."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.config.schema import CampaignConfig
from orchestrator.config.schema_file import SCHEMA_FILE, schema_json

ROOT = Path(__file__).parent.parent


def test_schema_file_is_current() -> None:
    """campaigns/schema.json is what the classes say; to renew it: python -m orchestrator.config.schema_file --write."""
    assert (ROOT / SCHEMA_FILE).read_text(encoding="utf-8") == schema_json()


def test_schema_knows_every_key_and_refuses_others() -> None:
    """Every key stands in the schema, and unknown ones are not allowed anywhere."""
    schema = json.loads(schema_json())
    assert set(schema["properties"]) == set(CampaignConfig.model_fields)
    objects = [schema, *schema["$defs"].values()]
    assert all(one["additionalProperties"] is False for one in objects if one.get("type") == "object")


def test_keys_are_named_as_in_the_file() -> None:
    """A step's input is written with 'from', not with the name of the class's field."""
    assert "from" in json.loads(schema_json())["$defs"]["FromInput"]["properties"]
