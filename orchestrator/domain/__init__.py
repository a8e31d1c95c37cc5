"""The words of Matloop as frozen values: no database, no devices, no Prefect, no torch.

Shape letters, fixed everywhere: `n` candidates, `q` chosen together, `d` features, `m` modelled properties (objectives
and constrained ones), `s` draws or ensemble members.
"""

from orchestrator.domain.candidates import Candidate, Crystal, Quantity
from orchestrator.domain.canonical import (
    TARGET,
    Array,
    Json,
    JsonObject,
    Value,
    canonical_json,
    derive_seed,
    frozen,
    sha256,
)
from orchestrator.domain.dataset import Dataset, Labels, Measurement, Outcome, Quality, Row
from orchestrator.domain.expenses import Expense, Expenses
from orchestrator.domain.explanation import Contribution, Explanation, Neighbour, Substitution
from orchestrator.domain.knowledge import DecisionSummary, FitReport, HeldOut, Prediction, Proposal, Spent
from orchestrator.domain.orders import (
    Absent,
    Attachment,
    Capability,
    Description,
    Finished,
    Health,
    Identity,
    Limit,
    Order,
    Output,
    Parameter,
    Reading,
    Recovery,
    Result,
    Running,
    Unsure,
    Whereabouts,
)
from orchestrator.domain.problem import Budget, Constraint, Fidelity, Goal, Objective, Problem

__all__ = [
    "TARGET",
    "Absent",
    "Array",
    "Attachment",
    "Budget",
    "Candidate",
    "Capability",
    "Constraint",
    "Contribution",
    "Crystal",
    "Dataset",
    "DecisionSummary",
    "Description",
    "Expense",
    "Expenses",
    "Explanation",
    "Fidelity",
    "Finished",
    "FitReport",
    "Goal",
    "Health",
    "HeldOut",
    "Identity",
    "Json",
    "JsonObject",
    "Labels",
    "Limit",
    "Measurement",
    "Neighbour",
    "Objective",
    "Order",
    "Outcome",
    "Output",
    "Parameter",
    "Prediction",
    "Problem",
    "Proposal",
    "Quality",
    "Quantity",
    "Reading",
    "Recovery",
    "Result",
    "Row",
    "Running",
    "Spent",
    "Substitution",
    "Unsure",
    "Value",
    "Whereabouts",
    "canonical_json",
    "derive_seed",
    "frozen",
    "sha256",
]
