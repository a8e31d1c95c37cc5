"""The rules of the instrument contract: each with its level and the mistake that it catches; and how findings are kept.

A rule that no mistake trips is dead weight: `tests/bad_drivers.py` has at least one deliberately bad driver for each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from orchestrator.domain import Identity


class Level(IntEnum):
    """How far the checks go; a level never rises by itself."""

    STATIC = 0
    """Declarations; nothing is opened."""
    PASSIVE = 1
    """The link, and orders that must be refused."""
    ACTIVE = 2
    """Orders that work: things move."""
    DRILLS = 3
    """Accidents; for simulators."""


@dataclass(frozen=True)
class Rule:
    """One thing that every driver must keep.

    Args:
        name: what must hold.
        level: at which it is checked.
        catches: the mistake, as a lab meets it.
    """

    name: str
    level: Level
    catches: str


def _rules(level: Level, **named: str) -> Iterable[Rule]:
    for name, catches in named.items():
        yield Rule(name.replace("_", " "), level, catches)


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        *_rules(
            Level.STATIC,
            the_six_methods_are_async="a plain function where a coroutine is awaited",
            options_refuse_unknown_keys="a misspelt option that is silently ignored",
            importing_touches_nothing="a port opened, or torch loaded, while a campaign file is only being checked",
            describe_works_offline="a campaign that cannot be checked without the lab",
            describe_gives_the_same_twice="a search space that differs between the check and the campaign",
            the_description_is_plain_JSON="a bound that cannot be recorded or sent to an adapter host",
            capabilities_have_different_names="an order that is carried out by the wrong capability",
            names_can_be_written_in_a_file="a parameter that no campaign file can name",
            every_capability_declares_outputs="results that nobody expects, and that are dropped",
            units_are_known_and_unambiguous="'C' is coulomb, 'deg C' is degree times coulomb",
            parameters_have_finite_bounds_or_choices="no limit at all, or 0 to 0 for 'none'",
            joint_limits_name_parameters="a limit that never applies",
            durations_and_cost_are_finite="an instrument that is waited for for ever",
            a_queryable_instrument_can_look_up="a promise of recovery that nobody can keep",
            there_is_at_least_one_slot="an instrument that is never free",
        ),
        *_rules(
            Level.PASSIVE,
            level_1_comes_to_its_end="a driver that cannot be opened, or raises where it must answer",
            health_answers_before_opening="a lab page that fails because one device is off",
            the_identity_has_a_name="an open that 'succeeds' on a dead port",
            opening_leaves_the_event_loop_free="every other instrument stands still while this one connects",
            opening_twice_is_harmless="a second link where one is there",
            health_answers="a health that waits for the job, or that a dead cable leaves 'ready'",
            abort_when_idle_is_harmless="an abort that leaves the device stopped, or that raises",
            an_unknown_key_is_absent_or_unsure="another job's result given for this key",
            refuses_an_unknown_capability="an order that is carried out as another one",
            refuses_an_unknown_parameter="a misspelt set-point that is silently ignored",
            refuses_a_missing_structure="a computation of whatever was there before",
            refuses_a_choice_that_is_none="argon asked, air taken",
            refuses_a_value_above_its_bound="500 clamped to 100 without a word",
            refuses_a_value_below_its_bound="a negative volume clamped to 0 with a print",
            refuses_NaN="a NaN that becomes a set-point",
            refuses_infinity="an infinite set-point",
            refuses_another_dimension="metres taken for degrees",
            refuses_a_missing_value="yesterday's set-point used again",
            refuses_a_passed_joint_limit="each value allowed, both together not",
            closing_twice_is_harmless="a clean-up that raises over the error that matters",
            it_opens_again_as_the_same="a session that cannot be opened after a time-out",
            a_dead_address_is_not_connected="a campaign that hangs on a device that is switched off",
            nothing_is_left_after_closing="a reader thread or connection that holds the port for ever",
        ),
        *_rules(
            Level.ACTIVE,
            level_2_comes_to_its_end="a driver that raises something that is no InstrumentError",
            a_good_order_works="a declaration that the device does not keep",
            the_event_loop_stays_free="a blocking read in an async method",
            the_key_comes_back="a result recorded for another order",
            every_output_is_given_once="a partial result taken for a whole one",
            readings_have_the_declared_dimension="volts relabelled as amperes",
            readings_are_finite_and_valid="NaN, or a value outside the range that physics allows",
            standard_errors_are_finite="a surrogate that is told of a negative variance",
            time_stamps_are_now="a stale reading; local time; seconds for microseconds",
            setpoints_are_read_back="'the plan succeeded though the motor had not moved'",
            applied_follows_what_is_asked="a read-back that is always the same",
            progress_is_between_0_and_1="a progress bar at 4000 %",
            attachments_are_named_bytes="a raw file that cannot be kept",
            the_same_key_gives_the_same_readings="an 'idempotent' instrument that measures twice",
            a_finished_order_is_found="a promise of recovery that is not kept",
            units_of_orders_are_converted="300 K set as 300 degC",
            the_declared_range_is_accepted="bounds that the device does not have",
            more_orders_than_slots_are_Busy_or_wait="two orders mixed on one wire",
            health_says_busy_during_a_job="a node that shows 'ready' while an action runs",
            abort_answers_within_a_second="a stop that is queued behind the very job that it should stop",
            an_abort_ends_the_job="a job that goes on after STOP",
            usable_after_an_abort="a device that nobody can use after a stop",
            the_deadline_ends_the_order="an order that outlives its deadline",
            a_passed_deadline_is_never_without_effect="'nothing happened' said of work that goes on",
            a_cancelled_order_ends="a task that swallows its cancellation",
            usable_after_a_cancel="a lock that is held for ever",
            health_is_ready_again_after_work="a busy flag that nobody takes down",
            nothing_is_left_after_work="a connection each order leaves behind",
        ),
        *_rules(
            Level.DRILLS,
            level_3_comes_to_its_end="a driver that an accident breaks for good",
            orders_in_a_row_stay_right="a value that belongs to the order before",
            nothing_grows_with_orders="one file or thread more with each order",
            a_jump_of_the_clock_changes_nothing="a deadline measured on the wall clock",
            a_full_disk_is_told="raw data that are silently lost",
            a_frozen_device_is_noticed="a health that says ready of a device that hangs",
            a_frozen_device_ends_the_order="a read without a time-out",
            it_works_after_a_freeze="the late answer taken for the next one",
            a_killed_device_is_noticed="a link that is dead and looks alive",
            a_killed_device_ends_the_order="an order that waits for a device that is gone",
            it_works_after_a_restart="a session that is never opened anew",
            a_spoiled_reply_gives_no_wrong_value="half an answer read as a number",
            it_works_after_a_spoiled_reply="every answer belongs to the question before",
        ),
    )
}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        rule: name of the rule.
        passed: whether it holds; None where it was not tried.
        detail: what was seen, where it does not hold or was not tried.
        about: the capability or parameter that was checked; empty for the instrument.
        seconds: that the check took.
    """

    rule: str
    passed: bool | None
    detail: str = ""
    about: str = ""
    seconds: float = 0.0

    @property
    def check(self) -> str:
        """What was checked, in one line."""
        return f"{self.about}: {self.rule}" if self.about else self.rule

    @property
    def level(self) -> Level:
        """Level of the rule."""
        return RULES[self.rule].level


class Findings:
    """Collects findings."""

    def __init__(self) -> None:
        self.all: list[Finding] = []
        self.identity: Identity | None = None
        """Who answered, where the link was opened."""
        self._last = time.monotonic()

    def that(self, rule: str, passed: bool | None, detail: str = "", *, about: str = "") -> bool:
        """Note one finding.

        Args:
            rule: a name in `RULES`.
            passed: whether it holds.
            detail: what was seen; kept where it does not hold or was not tried.
            about: capability or parameter.

        Returns:
            Whether it holds.
        """
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        known = RULES[rule].name
        self.all.append(Finding(known, passed, "" if passed else detail, about, round(seconds, 3)))
        return bool(passed)

    def none_of(self, rule: str, wrong: Iterable[str], *, about: str = "") -> bool:
        """Note that a list of faults must be empty.

        Args:
            rule: a name in `RULES`.
            wrong: one sentence for each fault.
            about: capability or parameter.

        Returns:
            Whether it holds.
        """
        found = list(wrong)
        return self.that(rule, not found, "; ".join(found), about=about)
