"""The command `service`: instruments leave and come back with a name and a reason."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from flows.cli import main
from orchestrator.record.store import CampaignStore
from tests import records
from tests.crash.world import NAME, new_store
from tests.test_executor import FIRE


def test_an_instrument_leaves_and_comes_back(tmp_path: Path) -> None:
    """Without a state it lists; out and in need a reason; the question goes with the return."""
    where = tmp_path / "c.db"
    new_store(where, [FIRE], [800.0]).close()

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["service", *arguments, "--store", str(where)])
        return done.exit_code, done.output

    assert call() == (0, "every instrument is in service\n")
    assert call("kiln", "out")[0] == 2
    code, said = call("kiln", "out", "--who", "Ada", "--reason", "smoke")
    assert (code, said) == (0, "kiln is OUT OF SERVICE\n")
    assert "by Ada (person): smoke" in call()[1]
    store = CampaignStore.open(where)
    records.begin(store, "other")
    assert call()[1].count("smoke") == 1  # of all campaigns, each instrument once
    assert "which campaign?" in call("kiln", "in", "--reason", "aired")[1]
    store.ask(NAME, "service", "smoke", instrument="kiln")
    assert call("kiln", "in", "--campaign", NAME, "--who", "Ada", "--reason", "aired") == (0, "kiln is in service\n")
    assert store.asked(NAME) == []
    code, said = call("kiln", "in", "--campaign", NAME, "--reason", "again")
    assert code == 1
    assert "'kiln' is in service; out of service are: none" in said
    store.close()
