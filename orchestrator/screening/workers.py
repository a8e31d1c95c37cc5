"""Chunks of a pool predicted and committed, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from orchestrator.abilities import Forgets, GivesIntervals, KnowsItsDomain
from orchestrator.domain import Array, Candidate, Prediction
from orchestrator.errors import MaterialError, MatloopError, NotEnoughData
from orchestrator.fits import Recipe, revive
from orchestrator.materials.items import Item, read
from orchestrator.protocols import Surrogate
from orchestrator.screening.parts import EXTRAPOLATES, commit
from orchestrator.screening.table import table_for

MOST_ATOMS_AT_ONCE = 20_000
"""Atoms asked about together: their graphs take some 100 MB at 5 Å."""
Chunks = Iterator[tuple[int, list[Item]]]


@dataclass(frozen=True)
class Settings:
    """What a screening depends on besides fit and pool.

    Args:
        level: share of measurements that intervals are to contain.
        chunk: entries committed together.
        most_atoms: a larger cell is refused, so that memory stays bounded.
    """

    level: float = 0.9
    chunk: int = 1000
    most_atoms: int = 500


@dataclass(frozen=True)
class Task:
    """What a worker needs to begin."""

    recipe: Recipe
    settings: Settings
    folder: str
    suffix: str


@dataclass(frozen=True)
class Done:
    """One committed chunk: its rows, the share of the pool that lies before its end, and what its intervals rest on.

    `refusal` is why none of its readable entries could be predicted, where that is so.
    """

    rows: int
    share: float
    refusal: str = ""
    intervals: str = ""


class _Predictor:
    """Predicts and commits chunks with a surrogate that is loaded once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._surrogate = revive(task.recipe)
        self._intervals = ""
        self._supports = self._surrogate.supports()
        self._table = table_for(Path(f"out{task.suffix}"), task.recipe.problem, task.settings.level)

    def __call__(self, number: int, items: Sequence[Item]) -> Done:
        candidates: list[tuple[int, Candidate]] = []
        unreadable: dict[int, str] = {}
        unasked: dict[int, str] = {}
        for place, item in enumerate(items):
            try:
                candidate = read(item, most_atoms=self._task.settings.most_atoms)
            except MaterialError as error:
                unreadable[place] = str(error)
                continue
            if reason := self._unsuited(candidate, item):
                unasked[place] = reason
            else:
                candidates.append((place, candidate))
        # Cells of one size go through a network together: that bounds the memory of a batch.
        candidates.sort(key=lambda pair: len(pair[1].crystal.species) if pair[1].crystal else 0)
        answers: dict[int, list[Any]] = {}
        for group in _groups(candidates):
            answers |= self._ask(group, unasked)
            if isinstance(self._surrogate, Forgets):
                self._surrogate.forget()
        labels = {place: candidate.label for place, candidate in candidates}
        reasons = unreadable | unasked
        rows = [
            [item.number, item.id, labels.get(i, ""), *answers.get(i, self._table.blank), reasons.get(i, "")]
            for i, item in enumerate(items)
        ]
        commit(Path(self._task.folder), self._table, number, rows, self._task.suffix)
        refusal = next(iter(unasked.values()), "") if not answers else ""
        return Done(len(rows), items[-1].share, refusal, self._intervals)

    def _unsuited(self, candidate: Candidate, item: Item) -> str:
        """Say why a candidate that carries nothing of what the surrogate reads cannot be asked about."""
        carried = {
            "structure": candidate.crystal is not None,
            "composition": candidate.composition is not None,
            "parameters": bool(candidate.parameters),
        }
        wanted = sorted(name for name in carried if name in self._supports)
        if any(carried[name] for name in wanted):
            return ""
        has = ", ".join(name for name, there in carried.items() if there)
        reads = " or ".join(wanted) or "nothing that a pool can give"
        return f"{item.name} gives {has}; {self._task.recipe.surrogate} reads {reads}"

    def _ask(self, candidates: Sequence[tuple[int, Candidate]], unasked: dict[int, str]) -> dict[int, list[Any]]:
        """Predict; where that fails, halve until the candidate that is to blame stands alone."""
        if not candidates:
            return {}
        try:
            return self._answers(candidates)
        except (MatloopError, ValueError, ArithmeticError, IndexError, KeyError) as error:
            if len(candidates) == 1:
                unasked[candidates[0][0]] = str(error) or type(error).__name__
                return {}
        half = len(candidates) // 2
        return self._ask(candidates[:half], unasked) | self._ask(candidates[half:], unasked)

    def _answers(self, candidates: Sequence[tuple[int, Candidate]]) -> dict[int, list[Any]]:
        asked = [candidate for _, candidate in candidates]
        surrogate = self._surrogate
        answer = surrogate.predict(asked)
        low, high, self._intervals = _interval(surrogate, asked, self._task.settings.level, answer)
        outside = surrogate.outside(asked) if isinstance(surrogate, KnowsItsDomain) else None
        found: dict[int, list[Any]] = {}
        for i, (place, _) in enumerate(candidates):
            row: list[Any] = []
            for j in range(answer.mean.shape[1]):
                parts = (answer.mean, answer.sd, answer.epistemic, answer.noise, low, high)
                row += [float(part[i, j]) for part in parts]
            far = None if outside is None else float(outside[i])
            found[place] = [*row, far, None if far is None else far > EXTRAPOLATES]
        return found


def _groups(candidates: Sequence[tuple[int, Candidate]]) -> Iterator[Sequence[tuple[int, Candidate]]]:
    """Cut candidates where their atoms become too many to be held at once."""
    start, atoms = 0, 0
    for i, (_, candidate) in enumerate(candidates):
        own = len(candidate.crystal.species) if candidate.crystal else 0
        if i > start and atoms + own > MOST_ATOMS_AT_ONCE:
            yield candidates[start:i]
            start, atoms = i, 0
        atoms += own
    if candidates:
        yield candidates[start:]


def _interval(
    surrogate: Surrogate, asked: Sequence[Candidate], level: float, answer: Prediction
) -> tuple[Array, Array, str]:
    """Return the ends of the intervals, and what they rest on."""
    if isinstance(surrogate, GivesIntervals):
        with suppress(NotEnoughData):
            return *surrogate.interval(asked, level), "held-out labels"
    reach = NormalDist().inv_cdf(0.5 + level / 2) * answer.sd
    return answer.mean - reach, answer.mean + reach, "the standard deviation"


_own: list[_Predictor | Exception] = []
"""The predictor of this worker process, or why there is none."""


@contextmanager
def crew(task: Task, workers: int) -> Iterator[Callable[[Chunks], Iterator[Done]]]:
    """Give a function that works chunks off, in this process or in others.

    Args:
        task: what to do with each chunk.
        workers: processes; 1 is this one.

    Yields:
        The function: chunks → what was committed, in any order.

    Raises:
        MatloopError: a worker died.
    """
    if workers == 1:
        predictor = _Predictor(task)
        yield lambda chunks: (predictor(number, items) for number, items in chunks)
        return
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))  # what the workers start with
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(task,))
    try:
        yield lambda chunks: _shared(pool, chunks, 2 * workers)
    except BrokenProcessPool as error:
        message = (
            "a worker process ended, perhaps because memory ran out; what is finished is kept: run it again with fewer"
            " --workers or a smaller --chunk"
        )
        raise MatloopError(message) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _shared(pool: ProcessPoolExecutor, chunks: Chunks, most: int) -> Iterator[Done]:
    """Keep a few chunks in flight: enough for every worker to be busy, never the whole pool."""
    open_: set[Future[Done]] = set()
    for number, items in chunks:
        open_.add(pool.submit(_work, number, items))
        if len(open_) >= most:
            ready, open_ = wait(open_, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ready)
    while open_:
        ready, open_ = wait(open_, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in ready)


def _begin(task: Task) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _own[:] = [_Predictor(task)]
    except Exception as error:  # noqa: BLE001  an error in an initializer would be told as a worker's death
        _own[:] = [error]


def _end_with_parent() -> None:
    """End when the process that hands out the chunks is killed; its death is all that this one would wait for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(number: int, items: Sequence[Item]) -> Done:
    if isinstance(_own[0], Exception):
        raise _own[0]
    return _own[0](number, items)
