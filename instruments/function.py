"""A Python function as an instrument: how most labs begin.

::

    @instrument(outputs={"strength": "MPa"}, parameters={"temperature": ("degC", 20, 800), "gas": ["air", "argon"]})
    def bake(temperature: float, gas: str) -> float:
        return my_furnace.bake_and_press(temperature, gas)

and in the campaign file ``use: my_lab.bake:bake``, with ``allowed_modules: [my_lab]`` in lab.yaml. A plain function
runs on a private thread, so it may block; an async function runs there too, on an event loop of its own for each call,
and is cancelled by an abort.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from instruments.settings import applied
from instruments.sync import WAKE_S, BlockingInstrument, Job
from orchestrator.domain import Capability, Description, Identity, Limit, Output, Parameter, Reading, Recovery, Result
from orchestrator.errors import BadData, PluginError
from orchestrator.protocols import Options
from orchestrator.units import check_unit

OutputLike = str | tuple[str, float, float] | Output
ParameterLike = tuple[str, float, float] | Sequence[str] | Parameter
EXTRAS = ("job", "crystal", "options")
"""What a function may ask for besides its parameters."""


class FunctionInstrument(BlockingInstrument):
    """Base of the classes that `instrument` makes."""

    function: ClassVar[Callable[..., Any]]
    declared: ClassVar[Description]
    wants: ClassVar[frozenset[str]]

    def description(self) -> Description:
        """Return what the decorator was given."""
        return self.declared

    def connect(self) -> Identity:
        """Name the function."""
        return Identity(name=f"{type(self).__module__}:{type(self).__qualname__}")

    def work(self, job: Job) -> Result:
        """Call the function with the order's set-points."""
        return self._result(job, type(self).function(**self._arguments(job)))

    def _arguments(self, job: Job) -> dict[str, Any]:
        extras = {"job": job, "crystal": job.order.crystal, "options": self.options}
        return {**job.numbers, **job.choices, **{name: extras[name] for name in EXTRAS if name in self.wants}}

    def _result(self, job: Job, returned: Any) -> Result:
        if isinstance(returned, Result):
            return returned
        capability = self.declared.capability(job.order.capability)
        return Result(
            key=job.order.key,
            readings=_readings(capability, returned),
            applied=applied(capability, job.numbers),
            applied_choices=dict(job.choices),
        )


class AsyncFunctionInstrument(FunctionInstrument):
    """Base of the classes that `instrument` makes of async functions."""

    def work(self, job: Job) -> Result:
        """Run the async function to its end, or cancel it where the campaign wants an abort."""
        return self._result(job, asyncio.run(self._watched(job)))

    async def _watched(self, job: Job) -> Any:
        task = asyncio.ensure_future(type(self).function(**self._arguments(job)))
        while not task.done():
            await asyncio.wait([task], timeout=WAKE_S)
            if job.abort_requested():
                task.cancel()
        try:
            return task.result()
        except asyncio.CancelledError:
            job.raise_if_aborted()
            raise


def instrument(
    *,
    outputs: Mapping[str, OutputLike],
    parameters: Mapping[str, ParameterLike] | None = None,
    takes_structure: bool = False,
    limits: Sequence[Limit] = (),
    options: type[BaseModel] = Options,
    recovery: Recovery | str = Recovery.BLIND,
    slots: int = 1,
    typical_s: float = 1.0,
    longest_s: float = 3600.0,
    cost: float = 0.0,
    fidelity: str = "real",
    knows: Sequence[str] = (),
    simulated: bool = False,
) -> Callable[[Callable[..., Any]], type[FunctionInstrument]]:
    """Make an instrument of a function; the function's name becomes the name of its one capability.

    The function takes its parameters by name, in the declared units, and may take `crystal` (the structure of the
    order), `job` (`progress`, `abort_requested`, `sleep`) and `options` (its checked options). It returns a number, a
    pair (number, standard error), or for several outputs a dict of those; or a whole `Result`.

    Args:
        outputs: property → its unit, (unit, lowest, highest valid value), or an `Output`.
        parameters: name → (unit, low, high), a list of choices, or a `Parameter`.
        takes_structure: whether an order must carry a structure.
        limits: joint bounds.
        options: pydantic class of the options that a campaign or lab file may give.
        recovery: ``idempotent`` where calling again with the same order does no harm, as for a pure computation.
        slots: how many calls may run at once.
        typical_s: usual duration in seconds.
        longest_s: after this many seconds the call hangs.
        cost: of one call, in the campaign's cost unit.
        fidelity: kind of truth, such as ``real`` or ``simulated``.
        knows: versions of pretrained knowledge inside.
        simulated: no physical act happens.

    Returns:
        A decorator that turns the function into a driver class; the function stays reachable as `function`.

    Raises:
        PluginError: the function's arguments are not the declared parameters, or a declaration is wrong.
    """

    def decorate(function: Callable[..., Any]) -> type[FunctionInstrument]:
        described = Description(
            capabilities=(
                Capability(
                    name=function.__name__,
                    outputs=tuple(_output(name, given) for name, given in outputs.items()),
                    parameters=tuple(_parameter(name, given) for name, given in (parameters or {}).items()),
                    takes_structure=takes_structure,
                    limits=tuple(limits),
                    typical_s=typical_s,
                    longest_s=longest_s,
                    cost=cost,
                    fidelity=fidelity,
                ),
            ),
            recovery=Recovery(recovery),
            slots=slots,
            knows=frozenset(knows),
            simulated=simulated,
        )
        base = AsyncFunctionInstrument if inspect.iscoroutinefunction(function) else FunctionInstrument
        content = {
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__doc__": function.__doc__,
            "Options": options,
            "function": staticmethod(function),
            "declared": described,
            "wants": _wanted(function, frozenset(parameters or {})),
        }
        return type(function.__name__, (base,), content)

    return decorate


def _wanted(function: Callable[..., Any], declared: frozenset[str]) -> frozenset[str]:
    arguments = inspect.signature(function).parameters
    named = {name for name, argument in arguments.items() if argument.kind is not inspect.Parameter.VAR_KEYWORD}
    takes_any = len(named) < len(arguments)
    required = {name for name in named if arguments[name].default is inspect.Parameter.empty}
    unknown = sorted(required - declared - set(EXTRAS))
    if unknown:
        message = (
            f"{function.__name__} takes {', '.join(unknown)}, which the decorator does not declare;"
            f" add it to 'parameters' (or take one of: {', '.join(EXTRAS)})"
        )
        raise PluginError(message)
    missing = sorted(declared - named)
    if missing and not takes_any:
        message = (
            f"'parameters' declares {', '.join(missing)}, which {function.__name__} does not take; add the argument"
        )
        raise PluginError(message)
    return frozenset(named & set(EXTRAS) - declared)


def _output(name: str, given: OutputLike) -> Output:
    if isinstance(given, Output):
        return given
    if isinstance(given, str):
        return Output(name, check_unit(given))
    unit, low, high = given
    return Output(name, check_unit(unit), float(low), float(high))


def _parameter(name: str, given: ParameterLike) -> Parameter:
    if isinstance(given, Parameter):
        return given
    if isinstance(given, tuple):
        unit, low, high = given
        return Parameter(name, check_unit(str(unit)), float(low), float(high))
    return Parameter(name, choices=tuple(given))


def _readings(capability: Capability, returned: Any) -> tuple[Reading, ...]:
    numbers = [output for output in capability.outputs if output.kind == "number"]
    if not isinstance(returned, Mapping):
        if len(numbers) != 1:
            names = ", ".join(output.name for output in numbers)
            message = f"{capability.name} returned {returned!r}; a dict with {names} was expected"
            raise BadData(message)
        returned = {numbers[0].name: returned}
    wrong = sorted(set(returned) ^ {output.name for output in numbers})
    if wrong:
        message = f"{capability.name} returned {sorted(returned)}; these are missing or undeclared: {', '.join(wrong)}"
        raise BadData(message)
    return tuple(_reading(output, returned[output.name]) for output in numbers)


def _reading(output: Output, given: Any) -> Reading:
    value, std_error = given if isinstance(given, tuple) else (given, None)
    try:
        return Reading(output.name, float(value), output.unit, None if std_error is None else float(std_error))
    except (TypeError, ValueError) as error:
        message = f"{output.name} is {given!r}; a number in {output.unit}, or (number, standard error), was expected"
        raise BadData(message) from error
