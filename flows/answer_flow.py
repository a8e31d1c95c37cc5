"""The form on the Prefect page by which people answer, and what a campaign's page shows of its questions.

Its runs go through the worker of `matloop up`, as those of the campaign form do; any program that may call the Prefect
server's interface can create such a run, too. What is answered goes into the campaign database by the same function as
from the command line.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.types.entrypoint import EntrypointType

from flows.answering import VERBS, Desk, Open, give, resolve_verb
from flows.session import STORE_VARIABLE, opened, resolve
from orchestrator.errors import MatloopError, StoreError

FLOW = "answer"
DEPLOYMENT = "matloop"
DESCRIPTION = """Answer a question of a campaign, or a task card, and press **Submit**.

The questions stand in the artifact **questions** of each campaign's run, with links that fill this form. Your name and
your reason stand in the record beside the answer, for ever.
"""
FORM: Mapping[str, Mapping[str, Any]] = {
    "campaign": {"title": "Campaign", "type": "string", "description": "empty: the only one that there is"},
    "question": {
        "title": "Question",
        "type": "string",
        "description": "its id, such as a7, q3 or t3fa9c1d2; empty: the only one that is open",
    },
    "answer": {"title": "Answer", "type": "string", "enum": list(VERBS)},
    "values": {
        "title": "Values",
        "type": "string",
        "description": "with done_by_hand, semicolons between: strength = 3.4 MPa; density = 98 percent",
    },
    "name": {"title": "Your name", "type": "string", "minLength": 1},
    "reason": {
        "title": "Reason",
        "type": "string",
        "description": "what you saw at the instrument, or why you decide so",
    },
}
"""The form's fields."""
REQUIRED = ["answer", "name"]


@flow(name=FLOW, flow_run_name="answer {question} {answer}", persist_result=False, retries=0, log_prints=False)
async def answer_flow(
    *, campaign: str = "", question: str = "", answer: str = "", values: str = "", name: str = "", reason: str = ""
) -> State[str]:
    """Answer a question of a campaign.

    Args:
        campaign: name; empty for the only one.
        question: id; empty for the only one that is open.
        answer: one of the words of the form.
        values: ``property = number unit``, with semicolons or lines between.
        name: of the person.
        reason: of the answer.

    Returns:
        A state that says what was answered, or why nothing was.
    """
    try:
        told = await asyncio.to_thread(_answered, campaign, question, answer, values, name=name, reason=reason)
    except MatloopError as error:
        return Failed(message=str(error))  # raised, it would stand on the page under a traceback
    get_run_logger().info("%s (by %s)", told, name)
    return Completed(message=told, data=told)


def _answered(campaign: str, question: str, answer: str, values: str, *, name: str, reason: str) -> str:
    if not name.strip():
        message = "an answer needs your name: it stands in the record"
        raise StoreError(message)
    texts = [text.strip() for text in re.split(r"[;\n]", values) if text.strip()]
    with opened(os.environ.get(STORE_VARIABLE)) as store:
        found = resolve(store, campaign.strip() or None)
        verb, wanted = resolve_verb(answer), question.strip() or None
        return give(Desk(store), found, wanted, verb, texts, who=name.strip(), reason=reason.strip())


async def deploy_answers(pool: str, queue: str) -> UUID:
    """Make or renew the deployment behind the form.

    Args:
        pool: work pool whose worker carries its runs out.
        queue: of the pool; one that campaigns do not fill.
    """
    deployment = await answer_flow.ato_deployment(
        name=DEPLOYMENT,
        description=DESCRIPTION,
        work_pool_name=pool,
        work_queue_name=queue,
        entrypoint_type=EntrypointType.MODULE_PATH,
        tags=["matloop"],
    )
    schema = deployment._parameter_openapi_schema  # noqa: SLF001  Prefect would make it from the signature, untitled
    schema.properties = {key: {**field, "position": i} for i, (key, field) in enumerate(FORM.items())}
    schema.required = REQUIRED
    identity: UUID = await deployment.aapply()
    return identity


def listed(there: Sequence[Open], form: UUID | None) -> str:
    """Write what people are asked as markdown.

    Args:
        there: from `waiting`.
        form: id of the deployment, where one is served; its links fill the form.
    """
    if not there:
        return "Nobody is asked anything.\n"
    parts = [f"# {len(there)} thing{'s' if len(there) > 1 else ''} for people; reload for the newest"]
    for one in there:
        parts.append(f"## {one.id}: {one.instrument or one.kind}\n\n{one.text}")
        lines = [f"- {_linked(one, verb, form)}: {meaning}" for verb, meaning in one.verbs.items()]
        parts.append("\n".join(lines))
        parts.append(f"In the terminal: `{one.example(next(iter(one.verbs)))}`")
    if form is None:
        parts.append("With `matloop up` there is a form for the answers on this page, too.")
    return "\n\n".join(parts) + "\n"


def _linked(one: Open, verb: str, form: UUID | None) -> str:
    if form is None:
        return f"**{verb}**"
    filled = {"campaign": one.campaign, "question": one.id, "answer": verb}
    if verb == "done_by_hand":
        filled["values"] = "; ".join(f"{name} =  {unit}" for name, unit in one.values.items())
    query = urllib.parse.urlencode({"parameters": json.dumps(filled)}, quote_via=urllib.parse.quote)
    return f"[**{verb}**](/v2/deployments/deployment/{form}/run?{query})"
