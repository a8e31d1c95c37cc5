"""What a campaign file may say: frozen pydantic models, unknown keys refused. `steps` and `lab` hold the other parts.

The JSON Schema of `campaigns/schema.json` is generated from these classes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from orchestrator.config.base import Finite, Name, PropertyName, Strict, Unit
from orchestrator.config.base import Use as Use  # noqa: PLC0414  exported: benchmarks and defaults find it here
from orchestrator.config.steps import StepConfig
from orchestrator.domain import (
    TARGET,
    Budget,
    Constraint,
    Expense,
    Expenses,
    Fidelity,
    Objective,
    Problem,
    canonical_json,
    frozen,
    sha256,
)


class ObjectiveConfig(Strict):
    """One property to pursue."""

    property: PropertyName
    unit: Unit = "dimensionless"
    goal: Literal["maximize", "minimize", "target", "window", "learn"]
    target: Finite | None = Field(default=None, description="wanted value, with goal: target")
    window: tuple[Finite, Finite] | None = Field(
        default=None, description="lowest and highest good value, with goal: window"
    )

    @model_validator(mode="after")
    def _goes_with_goal(self) -> Self:
        if (self.goal == "target") != (self.target is not None):
            message = "'target' (a number) goes with 'goal: target', and only with it"
            raise ValueError(message)
        if (self.goal == "window") != (self.window is not None):
            message = "'window' ([low, high]) goes with 'goal: window', and only with it"
            raise ValueError(message)
        if self.window is not None and self.window[0] >= self.window[1]:
            message = f"'window' must be [low, high] with low below high, not {list(self.window)}"
            raise ValueError(message)
        return self


class ConstraintConfig(Strict):
    """A bound that a measured property must satisfy."""

    property: PropertyName
    unit: Unit = "dimensionless"
    min: Finite | None = None
    max: Finite | None = None

    @model_validator(mode="after")
    def _some_bound(self) -> Self:
        if self.min is None and self.max is None:
            message = "give 'min', 'max' or both"
            raise ValueError(message)
        if self.min is not None and self.max is not None and self.min > self.max:
            message = f"'min' ({self.min}) is above 'max' ({self.max}): nothing can satisfy it"
            raise ValueError(message)
        return self


class FidelityConfig(Strict):
    """A cheaper, less trusted way to a candidate's properties than the campaign's own procedure."""

    cost: Annotated[float, Field(ge=0)] = Field(default=1.0, description="price of a trial, in the budget's units")
    hours: Annotated[float, Field(ge=0)] = Field(default=0.0, description="duration of a trial, for choosing")
    procedure: tuple[StepConfig, ...] = Field(
        default=(), description="what a trial of this fidelity does; empty where people measure"
    )


class ExpenseConfig(Strict):
    """A price, in the budget's units, and a duration in hours."""

    cost: Annotated[float, Field(ge=0)] = 0.0
    hours: Annotated[float, Field(ge=0)] = 0.0

    def expense(self) -> Expense:
        """Return it as a domain value."""
        return Expense(self.cost, self.hours)


class ExpensesConfig(Strict):
    """What a trial costs: a fixed part, what the candidate adds, and what has to be changed over before it."""

    cost: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="of every trial; the sum of its steps' costs where not given"
    )
    hours: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="of every trial; the sum of its instruments' typical durations where not given"
    )
    rates: dict[PropertyName, ExpenseConfig] = Field(
        default_factory=dict, description="numeric parameter → expense of one unit of it"
    )
    choices: dict[PropertyName, dict[str, ExpenseConfig]] = Field(
        default_factory=dict, description="categorical parameter → choice → expense"
    )
    changeover: dict[PropertyName, ExpenseConfig] = Field(
        default_factory=dict, description="parameter → expense of another value than the trial before had"
    )

    def expenses(self) -> Expenses:
        """Return what candidates add as a domain value."""
        return Expenses(
            rates=frozen({name: one.expense() for name, one in self.rates.items()}),
            choices=frozen(
                {
                    name: frozen({choice: one.expense() for choice, one in by_choice.items()})
                    for name, by_choice in self.choices.items()
                }
            ),
            changeover=frozen({name: one.expense() for name, one in self.changeover.items()}),
        )


class EarlierConfig(Strict):
    """A campaign of the same database whose results this one starts from."""

    campaign: Name
    weight: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="1 trusts its results like the campaign's own; 0.25 doubles their standard errors"
    )
    properties: dict[PropertyName, PropertyName] = Field(
        default_factory=dict, description="this campaign's property → its name there; the same name where not given"
    )


class DerivedConfig(Strict):
    """A property computed from stored rows."""

    property: PropertyName
    use: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)
    source: Name = Field(alias="from", description="the step whose outputs it is computed from")


class InitialConfig(Strict):
    """What to measure before there is anything to learn from; or results that exist already."""

    use: str = Field(default="diverse", description="an acquisition policy that needs no surrogate, or 'table'")
    trials: Annotated[int, Field(ge=0)] = 8
    options: dict[str, Any] = Field(default_factory=dict)


class RefitConfig(Strict):
    """When to train fully; in between, results refresh the surrogate cheaply."""

    every: Annotated[int, Field(ge=1)] = Field(default=1, description="new labels between full trainings")
    cold_growth: Annotated[float, Field(ge=1)] = Field(
        default=1.5, description="train from scratch when the labels are so many times those of the last such training"
    )
    drift: bool = Field(
        default=True, description="train at once, from scratch, when results since the last training contradict it"
    )


class BudgetConfig(Strict):
    """Caps that the database enforces; at least one."""

    trials: Annotated[int, Field(ge=1)] | None = None
    hours: Annotated[float, Field(gt=0)] | None = None
    cost: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _some_cap(self) -> Self:
        if self.trials is None and self.hours is None and self.cost is None:
            message = "a campaign needs a budget: give 'trials', 'hours' or 'cost'"
            raise ValueError(message)
        return self


class ScheduleConfig(Strict):
    """How it is decided who goes next on an instrument that several trials wait for."""

    use: Literal["plain", "cp_sat"] = Field(
        default="plain", description="list scheduling with improvement, or OR-tools' CP-SAT (extra 'schedule')"
    )
    seconds: Annotated[float, Field(gt=0, le=600)] = Field(default=5.0, description="time for one plan of CP-SAT")


class CampaignConfig(Strict):
    """One campaign file."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    objectives: Annotated[tuple[ObjectiveConfig, ...], Field(min_length=1, max_length=4)]
    constraints: tuple[ConstraintConfig, ...] = ()
    space: Use
    instruments: dict[Name, Use] = Field(
        default_factory=dict, description="simulated and computed ones; real ones stand in lab.yaml"
    )
    procedure: tuple[StepConfig, ...] = Field(
        default=(), description="what a trial does; empty for a campaign that is measured by hand with ask and tell"
    )
    derived: tuple[DerivedConfig, ...] = ()
    fidelities: dict[Name, FidelityConfig] = Field(
        default_factory=dict, description="cheaper ways to the same properties, the least trusted first"
    )
    expenses: ExpensesConfig = ExpensesConfig()
    earlier: tuple[EarlierConfig, ...] = Field(default=(), description="campaigns whose results this one starts from")
    surrogate: Use | None = None
    acquisition: Use = Use(use="log_expected_improvement")
    initial: InitialConfig = InitialConfig()
    parallel: Annotated[int, Field(ge=1, le=1024)] = Field(default=1, description="trials in flight")
    plan_when_free: Annotated[int, Field(ge=1)] = Field(
        default=1, description="plan again when so many are free: 1 = asynchronous, = parallel for rounds"
    )
    queue: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="trials planned ahead of those in flight; they are ranked anew with every result"
    )
    schedule: ScheduleConfig = ScheduleConfig()
    refit: RefitConfig = RefitConfig()
    budget: BudgetConfig
    stop: tuple[Use, ...] = ()
    allow_shared_knowledge: bool = Field(
        default=False, description="allow a surrogate that knows what its instrument knows; the report says so"
    )

    @model_validator(mode="before")
    @classmethod
    def _chooses_among_fidelities(cls, content: Any) -> Any:
        """Choose the fidelity too where there are several and the file does not say what chooses."""
        if isinstance(content, dict) and content.get("fidelities") and "acquisition" not in content:
            return {**content, "acquisition": {"use": "fidelity_choice"}}
        return content

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        _no_twice("objectives", [o.property for o in self.objectives])
        _no_twice("procedure", [s.step for s in self.procedure])
        _no_twice("derived", [d.property for d in self.derived])
        _no_twice("earlier", [e.campaign for e in self.earlier])
        if TARGET in self.fidelities:
            message = f"'{TARGET}' is the campaign's own procedure; give the cheaper fidelity another name"
            raise ValueError(message)
        for name, fidelity in self.fidelities.items():
            _no_twice(f"fidelities.{name}.procedure", [s.step for s in fidelity.procedure])
            if bool(fidelity.procedure) != bool(self.procedure):
                message = (
                    f"fidelity {name!r} lacks a 'procedure', and the target has one"
                    if self.procedure
                    else f"fidelity {name!r} has a 'procedure', and the target has none"
                ) + ": either instruments measure all fidelities, or people do"
                raise ValueError(message)
        if self.plan_when_free > self.parallel:
            message = (
                f"'plan_when_free' ({self.plan_when_free}) is above 'parallel' ({self.parallel}): lower it, or raise"
                " 'parallel'"
            )
            raise ValueError(message)
        return self

    def problem(self) -> Problem:
        """Return the objectives, constraints, fidelities and budget as domain values."""
        return Problem(
            objectives=tuple(Objective(o.property, o.unit, o.goal, o.target, o.window) for o in self.objectives),
            constraints=tuple(Constraint(c.property, c.unit, c.min, c.max) for c in self.constraints),
            fidelities=(
                *(Fidelity(name, one.cost, one.hours) for name, one in self.fidelities.items()),
                Fidelity(TARGET, 1.0 if self.expenses.cost is None else self.expenses.cost, self.expenses.hours or 0.0),
            ),
            budget=Budget(self.budget.trials, self.budget.hours, self.budget.cost),
            expenses=self.expenses.expenses(),
        )

    @property
    def procedures(self) -> dict[str, tuple[StepConfig, ...]]:
        """What a trial does at each fidelity, the target last."""
        return {name: one.procedure for name, one in self.fidelities.items()} | {TARGET: self.procedure}

    @property
    def priced(self) -> bool:
        """Whether a trial's price follows `expenses` and `fidelities`, not the sum of its steps' costs."""
        return bool(self.fidelities) or self.expenses.cost is not None or bool(self.expenses.expenses())

    def snapshot(self) -> dict[str, Any]:
        """Return the file's content as JSON content, defaults filled in."""
        return self.model_dump(mode="json", by_alias=True)

    def sha256(self) -> str:
        """Return the hash of `snapshot`."""
        return sha256(canonical_json(self.snapshot()))


def _no_twice(key: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            first, second = [i for i, other in enumerate(names, start=1) if other == name][:2]
            message = f"'{key}' names {name!r} twice: items {first} and {second}; give one another name, or remove it"
            raise ValueError(message)
