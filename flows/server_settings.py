"""Settings of Prefect that were found good, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEARTBEAT_S = 60
SILENCE_S = 180
"""A flow run without a heartbeat for so long is shown as Crashed: three beats, since a fit can keep a computer busy."""

SETTINGS: Mapping[str, str] = {
    "PREFECT_SERVER_API_HOST": "127.0.0.1",
    "PREFECT_SERVER_UI_API_URL": "/api",  # the absolute default ties the page to port 4200
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
    # leases in the server's memory are lost when it restarts, and cancel whoever holds them
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # the defaults write one row a transaction: 48 ms of CPU a task instead of 16 ms, and SQLite lock errors
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "50",
}

CLIENT_SETTINGS: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # never pickle
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal shows our own progress; the page shows the log
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",  # our news says the same in better words
}

_ENDED = [f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")]
_WAITING = [f"prefect.flow-run.{state}" for state in ("Paused", "Suspended")]

DEAD_RUNS: Mapping[str, Any] = {
    "name": "Matloop: show a campaign as Crashed when its process is gone",
    "description": "The campaign database knows better than this page: 'matloop resume NAME' goes on.",
    "enabled": True,
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "after": ["prefect.flow-run.heartbeat"],
        "expect": ["prefect.flow-run.heartbeat", *_ENDED, *_WAITING],
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": SILENCE_S,
    },
    "actions": [
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "name": "Crashed",
            "message": f"No sign of life for {SILENCE_S} s. Nothing recorded is lost: type 'matloop resume'.",
        }
    ],
}
"""The automation by which the server marks flow runs whose process died; without it they are Running for ever."""
