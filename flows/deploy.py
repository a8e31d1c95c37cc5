"""The deployment behind the form: `matloop campaign` on the Prefect page starts a campaign from a file.

Its work pool runs each campaign as a process of its own, so that a worker's end does not take a campaign along.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flows.answer_flow import deploy_answers
from flows.campaign import campaign_flow
from flows.server import ServerProblem
from orchestrator.config.base import NAME
from orchestrator.config.read import load_campaign
from orchestrator.errors import ConfigError

AS_IN_FILE = "empty: as in the file"
POOL = "matloop"
MORE = 4
"""Answers that may be at work beside the campaigns."""
QUEUE, ANSWERS = "default", "answers"
"""Of the pool: a question must be answered while as many campaigns run as may."""
DEPLOYMENT = "matloop"
DESCRIPTION = """Start a campaign: choose its file, give it a name, and press **Submit**.

Empty fields stay as the file says. A campaign of that name that exists already is resumed, so sending the form twice
does no harm; two processes can never run the same campaign. Everything that happens is in the campaign database:
`matloop status` shows it, with or without this page.
"""
FORM: Mapping[str, Mapping[str, Any]] = {
    "file": {"title": "Campaign file", "type": "string", "description": "what to search, how to measure, when to stop"},
    "name": {
        "title": "Name of the campaign",
        "type": "string",
        "pattern": NAME,
        "description": "empty: as in the file. A campaign of that name that exists is resumed",
    },
    "trials": {"title": "Budget: trials", "type": "integer", "minimum": 1, "description": AS_IN_FILE},
    "hours": {"title": "Budget: hours", "type": "number", "exclusiveMinimum": 0, "description": AS_IN_FILE},
    "parallel": {
        "title": "Trials in flight",
        "type": "integer",
        "minimum": 1,
        "maximum": 1024,
        "description": AS_IN_FILE,
    },
    "seed": {"title": "Seed of all that is random", "type": "integer", "minimum": 0, "description": AS_IN_FILE},
    "text": {
        "title": "Campaign text",
        "type": "string",
        "description": "a whole campaign in YAML instead of a file; needs a name, and paths in it must be absolute",
    },
}
"""The form's fields. Prefect would make them from the flow's signature, with tabs int | None and without titles."""

SUFFIXES = (".yaml", ".yml")


def campaign_files(folder: Path) -> list[str]:
    """List the campaign files of a folder that instruments can run.

    Args:
        folder: to be read; not its subfolders.

    Returns:
        Names. A file with a mistake is offered too, so that its run says what is wrong; a lab file is not.
    """
    found = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and path.is_file()]
    return [path.name for path in found if _can_be_run(path)]


def _can_be_run(path: Path) -> bool:
    try:
        return bool(load_campaign(path).config.procedure)
    except ConfigError:
        return "objectives" in path.read_text(encoding="utf-8", errors="replace")


async def deploy(folder: Path, *, at_once: int) -> UUID:
    """Make or renew the work pool and the deployments: of campaigns, and of answers.

    Args:
        folder: whose campaign files the form offers.
        at_once: campaigns that may run at the same time.

    Returns:
        The id of the campaigns' deployment.

    Raises:
        ServerProblem: the folder has no campaign file.
    """
    files = campaign_files(folder)
    if not files:
        message = f"no campaign file (*.yaml) with a procedure lies in {folder}; name another folder with --campaigns"
        raise ServerProblem(message)
    await _pool(at_once)
    await deploy_answers(POOL, ANSWERS)
    deployment = await campaign_flow.ato_deployment(
        name=DEPLOYMENT,
        description=DESCRIPTION,
        work_pool_name=POOL,
        entrypoint_type=EntrypointType.MODULE_PATH,  # the installed package, from whatever folder the worker runs in
        parameters={"file": files[0]},
        tags=["matloop"],
    )
    schema = deployment._parameter_openapi_schema  # noqa: SLF001  the form's choice is known when it is served
    schema.properties = {key: {**field, "position": i} for i, (key, field) in enumerate(FORM.items())}
    schema.properties["file"]["enum"] = files
    schema.required = []
    identity: UUID = await deployment.aapply()
    return identity


async def _pool(at_once: int) -> None:
    async with get_client() as client:
        try:
            await client.read_work_pool(POOL)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            await client.create_work_pool(
                WorkPoolCreate(
                    name=POOL,
                    type=ProcessWorker.type,
                    description="campaigns and answers, each a process of its own",
                    base_job_template=template,
                    concurrency_limit=at_once + MORE,
                )
            )
        else:
            await client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=at_once + MORE))
        queue = await client.read_work_queue_by_name(QUEUE, work_pool_name=POOL)
        await client.update_work_queue(queue.id, concurrency_limit=at_once)
