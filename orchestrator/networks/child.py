"""Trains a trunk so that it survives too little memory, in a process of its own where the training is long.

What runs out of memory is tried again with half the batch, down to one crystal at a time, then on the CPU; each step is
said in the notes. A child process is what the operating system kills when memory runs out, so that the campaign lives
on. Parent and child speak through files of numbers (safetensors and JSON) and lines of progress; no code travels. The
child ends with its parent: it reads the parent's end of a pipe, which closes whatever way the parent dies.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from orchestrator.domain import Array
from orchestrator.errors import Diverged, SurrogateError
from orchestrator.networks.checkpoints import Checkpoint
from orchestrator.networks.formulas import Formula
from orchestrator.networks.graphs import Graph, pack, unpack
from orchestrator.networks.training import Mask, Progress, Schedule, Trained, train_noted
from orchestrator.networks.trunk import Item, Trunk, new_trunk

LONG = 50_000
"""Passes over a crystal from which a child process is worth its start: some 80 s of MEGNet against 6 s (measured)."""
JOB, ITEMS, START, RESULT, ANSWER, ERRORS = (
    "job.json",
    "items.safetensors",
    "start.safetensors",
    "result.safetensors",
    "answer.json",
    "errors.txt",
)
TAIL = 1500
"""Characters of the child's last words that an error repeats."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How to build the network again; see `trunk.new_trunk`."""

    network: str
    outputs: int
    cutoff: float | None = None
    blocks: int | None = None

    def build(self, seed: int) -> Trunk:
        """Build it with weights that depend on the seed alone."""
        return new_trunk(self.network, self.outputs, seed, cutoff=self.cutoff, blocks=self.blocks)


class _OutOfMemoryError(Exception):
    """One attempt did not fit; the text says how that was seen."""


def train_safely(
    recipe: Recipe,
    trunk: Trunk,
    items: Sequence[Item],
    y: Array,
    *,
    schedule: Schedule,
    seed: int,
    device: torch.device,
    held_out: Mask | None = None,
    checkpoint: Path | None = None,
    apart: bool | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a trunk; where memory runs out, with half the batch, and in the end on the CPU.

    Args:
        recipe: builds a network like `trunk`.
        trunk: starting weights; changed in place.
        items: n graphs or formulas.
        y: n × m standardised labels, NaN where absent.
        schedule: effort.
        seed: fixes the order of the graphs.
        device: where to compute first.
        held_out: see `training.train_noted`.
        checkpoint: folder to keep what is needed to go on after a crash.
        apart: in a child process; None where the training is long.
        progress: called after each epoch.

    Returns:
        The same weights whether apart or not, on a CPU; the notes say what was tried.

    Raises:
        Diverged: the loss is no longer finite.
        SurrogateError: memory does not suffice for one crystal at a time, or the child process failed.
    """
    start = {name: value.detach().cpu().clone() for name, value in trunk.state_dict().items()}
    if apart is None:
        apart = len(items) * schedule.epochs >= LONG
    batch, notes = min(schedule.batch, max(len(items), 1)), []
    if apart:
        notes.append("trained in a process of its own")
    while True:
        task = _Task(recipe, replace(schedule, batch=batch), seed, device.type, held_out, checkpoint)
        trunk.load_state_dict(start)
        try:
            done = (_in_a_child if apart else _here)(task, trunk, items, y, progress)
        except _OutOfMemoryError as error:
            if batch > 1:
                notes.append(f"{error} with {batch} crystals a step on {device.type}; tried again with {batch // 2}")
                batch //= 2
            elif device.type != "cpu":
                notes.append(f"{error} with one crystal a step on {device.type}; tried again on the CPU")
                device, batch = torch.device("cpu"), min(schedule.batch, max(len(items), 1))
            else:
                largest = max(len(item.species) for item in items)
                message = (
                    f"{error} with one crystal a step on the CPU; the largest has {largest} atoms: leave large cells"
                    " out, shorten the cutoff, or train on a computer with more memory"
                )
                raise SurrogateError(message) from error
            _log.warning("training: %s", notes[-1])
            continue
        return replace(done, notes=(*notes, *done.notes))


@dataclass(frozen=True, eq=False)
class _Task:
    recipe: Recipe
    schedule: Schedule
    seed: int
    device: str
    held_out: Mask | None
    checkpoint: Path | None

    def do(self, trunk: Trunk, items: Sequence[Item], y: Array, progress: Callable[[Progress], None] | None) -> Trained:
        return train_noted(
            trunk,
            items,
            y,
            schedule=self.schedule,
            seed=self.seed,
            device=torch.device(self.device),
            held_out=self.held_out,
            checkpoint=None if self.checkpoint is None else Checkpoint(self.checkpoint),
            progress=progress,
        )


def _here(
    task: _Task, trunk: Trunk, items: Sequence[Item], y: Array, progress: Callable[[Progress], None] | None
) -> Trained:
    try:
        return task.do(trunk, items, y, progress)
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        if task.device == "cuda":
            torch.cuda.empty_cache()
        message = "memory ran out"
        raise _OutOfMemoryError(message) from error


def _in_a_child(
    task: _Task, trunk: Trunk, items: Sequence[Item], y: Array, progress: Callable[[Progress], None] | None
) -> Trained:
    with tempfile.TemporaryDirectory(prefix="matloop-training-") as name:
        folder = Path(name)
        _write_job(folder, task, trunk, items, y)
        code = _wait(folder, progress)
        answer = _answer(folder, code)
        trunk.load_state_dict(load_file(folder / RESULT))
    return Trained(trunk.eval(), answer["epochs"], answer["best_epoch"], answer["held_out"], tuple(answer["notes"]))


def _wait(folder: Path, progress: Callable[[Progress], None] | None) -> int:
    """Start the child, pass its progress on, and return how it ended."""
    # What can be imported here can be imported there; -P keeps the working folder's files out of it.
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with (folder / ERRORS).open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603  this very interpreter and module
            [sys.executable, "-P", "-m", "orchestrator.networks.child", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=place,
            start_new_session=True,
        )
    try:
        for line in process.stdout or ():
            if progress is not None:
                progress(Progress(**json.loads(line)))
        return process.wait()
    finally:
        if process.poll() is None:  # an error or an interrupt here: the child must not go on alone
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _answer(folder: Path, code: int) -> dict[str, Any]:
    """Return what the child answered.

    Raises:
        _OutOfMemoryError: it was killed, or said that memory ran out.
        Diverged: it said so.
        SurrogateError: it failed otherwise.
    """
    if code == -signal.SIGKILL:
        message = "the training process was killed, as operating systems do when memory runs out,"
        raise _OutOfMemoryError(message)
    path = folder / ANSWER
    answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    error = answer.get("error")
    if error == "memory":
        message = "memory ran out"
        raise _OutOfMemoryError(message)
    if error == "diverged":
        raise Diverged(answer["message"])
    if code != 0 or error is not None:
        said = answer.get("message") or (folder / ERRORS).read_text(encoding="utf-8", errors="replace")[-TAIL:].strip()
        message = f"the training process ended with code {code}: {said or 'it said nothing'}"
        raise SurrogateError(message)
    return answer


def _write_job(folder: Path, task: _Task, trunk: Trunk, items: Sequence[Item], y: Array) -> None:
    content = {
        "recipe": asdict(task.recipe),
        "schedule": asdict(task.schedule),
        "seed": task.seed,
        "device": task.device,
        "checkpoint": None if task.checkpoint is None else str(task.checkpoint.absolute()),
        "threads": torch.get_num_threads(),
        "frozen": [name for name, value in trunk.named_parameters() if not value.requires_grad],
        "body_rate": trunk.body_rate,
        "formulas": any(isinstance(item, Formula) for item in items),
    }
    (folder / JOB).write_text(json.dumps(content), encoding="utf-8")
    arrays = {"y": np.asarray(y, dtype=np.float64), **_packed(items)}
    if task.held_out is not None:
        arrays["held_out"] = task.held_out.astype(np.uint8)
    # safetensors writes memory as it lies, so every array must lie in rows.
    save_file({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}, folder / ITEMS)
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in trunk.state_dict().items()}, folder / START)


def _packed(items: Sequence[Item]) -> dict[str, Any]:
    graphs = [item for item in items if isinstance(item, Graph)]
    if graphs:
        names = ("sizes", "counts", "species", "positions", "edges", "shifts")
        return dict(zip(names, pack(graphs), strict=True))
    formulas = [item for item in items if isinstance(item, Formula)]
    return {
        "sizes": np.array([len(item.species) for item in formulas]),
        "species": np.concatenate([item.species for item in formulas]),
        "fractions": np.concatenate([item.fractions for item in formulas]),
    }


def _unpacked(arrays: dict[str, Any], *, formulas: bool) -> list[Item]:
    if not formulas:
        names = ("sizes", "counts", "species", "positions", "edges", "shifts")
        return list(unpack(tuple(arrays[name] for name in names)))
    ends = np.cumsum(arrays["sizes"])
    return [
        Formula(arrays["species"][end - size : end].copy(), arrays["fractions"][end - size : end].copy())
        for end, size in zip(ends, arrays["sizes"], strict=True)
    ]


def _is_memory(error: BaseException) -> bool:
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error).lower() for word in words)


def _end_with_the_parent() -> None:
    # Returns when the parent's end closes; nothing is ever written to it. (A stream would hold a lock at exit.)
    os.read(0, 1)
    os._exit(1)


def main(folder: Path) -> int:
    """Train what a folder describes; the other end of `train_safely`."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the lines of progress
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])

    def tell(progress: Progress) -> None:
        lines.write(json.dumps(asdict(progress)) + "\n")
        lines.flush()

    try:
        arrays = {name: value.numpy() for name, value in load_file(folder / ITEMS).items()}
        held_out = arrays["held_out"].astype(np.bool_) if "held_out" in arrays else None
        recipe, checkpoint = Recipe(**job["recipe"]), job["checkpoint"]
        trunk = recipe.build(seed=0)
        trunk.load_state_dict(load_file(folder / START))
        for name, value in trunk.named_parameters():
            value.requires_grad_(name not in job["frozen"])
        trunk.body_rate = job["body_rate"]
        task = _Task(
            recipe,
            Schedule(**job["schedule"]),
            job["seed"],
            job["device"],
            held_out,
            None if checkpoint is None else Path(checkpoint),
        )
        done = task.do(trunk, _unpacked(arrays, formulas=job["formulas"]), arrays["y"], tell)
    except Diverged as error:
        answer: dict[str, Any] = {"error": "diverged", "message": str(error)}
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        answer = {"error": "memory", "message": str(error)}
    else:
        save_file({k: v.detach().contiguous().clone() for k, v in done.trunk.state_dict().items()}, folder / RESULT)
        answer = {
            "epochs": done.epochs,
            "best_epoch": done.best_epoch,
            "held_out": done.held_out,
            "notes": list(done.notes),
        }
    (folder / ANSWER).write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
