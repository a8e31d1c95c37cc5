"""The kit that says whether a driver can be trusted: `check` it, and look at the `failures`."""

from instruments.conformance.accidents import Accidents
from instruments.conformance.kit import Report, check, examine, failures
from instruments.conformance.rules import RULES, Finding, Findings, Level, Rule

__all__ = ["RULES", "Accidents", "Finding", "Findings", "Level", "Report", "Rule", "check", "examine", "failures"]
