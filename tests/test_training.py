"""Training that a lab can rely on: repeatable, resumable, stopped in time, in a child process where that pays."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.domain import Array, Crystal, sha256
from orchestrator.errors import Diverged, SurrogateError
from orchestrator.networks import child, training
from orchestrator.networks.checkpoints import Checkpoint
from orchestrator.networks.child import Recipe, train_safely
from orchestrator.networks.formulas import Formula
from orchestrator.networks.graphs import Graph, build_many
from orchestrator.networks.training import Progress, Schedule, cycle, hold_out, train, train_noted
from orchestrator.networks.trunk import Trunk, new_trunk, represent

CPU = torch.device("cpu")
NETWORKS = ("cgcnn", "megnet")
SCHEDULE = Schedule(epochs=6, batch=4, rate=5e-3)


def rock_salt(cation: str, anion: str, a: float) -> Crystal:
    """Return a primitive rock-salt cell."""
    h = a / 2
    return Crystal(((0.0, h, h), (h, 0.0, h), (h, h, 0.0)), (cation, anion), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)))


@pytest.fixture(scope="module")
def items() -> list[Graph]:
    """Return 14 small graphs."""
    return build_many(
        [rock_salt(c, x, a) for c, a in (("Li", 4.6), ("Na", 5.2), ("K", 6.0), ("Rb", 6.3), ("Ag", 5.2), ("Mg", 4.3),
                                         ("Ca", 4.9)) for x in ("Cl", "F")],
        4.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def y(items: list[Graph]) -> Array:
    """Return labels that follow from the elements."""
    raw = np.array([[float(graph.species.sum())] for graph in items])
    return (raw - raw.mean()) / raw.std()


def new(network: str = "cgcnn", seed: int = 0) -> Trunk:
    """Return a small fresh network."""
    return new_trunk(network, 1, seed, blocks=1)


def equal(one: Trunk, two: Trunk) -> bool:
    """Say whether all weights are the same, bit for bit."""
    first, second = one.state_dict(), two.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("network", NETWORKS)
def test_twice_the_same_training_gives_the_same_weights(network: str, items: list[Graph], y: Array) -> None:
    """On a CPU the same seed gives the same weights bit for bit; another seed gives others."""
    once, again = (train(new(network), items, y, schedule=SCHEDULE, seed=1, device=CPU) for _ in range(2))
    assert equal(once, again)
    assert not equal(once, train(new(network), items, y, schedule=SCHEDULE, seed=2, device=CPU))


def test_the_cycle_is_that_of_torch() -> None:
    """Rates and memories are those of `OneCycleLR`, step by step."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([weight], lr=3e-3)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=57, pct_start=training.RISE)
    for step in range(57):
        group = optimiser.param_groups[0]
        assert cycle(step, 57, 3e-3) == pytest.approx((group["lr"], group["betas"][0]), rel=1e-9)
        optimiser.step()
        if step < 56:
            theirs.step()


def test_absent_labels_do_not_count(items: list[Graph], y: Array) -> None:
    """A label that is not there changes nothing, whatever stands in its place in another property."""
    answer, wanted = torch.tensor([[1.0, 5.0], [2.0, 7.0]]), torch.tensor([[0.5, float("nan")], [2.0, 6.5]])
    assert float(training.masked_loss(answer, wanted)) == pytest.approx((0.125 + 0.0 + 0.125) / 3)
    assert float(training.masked_loss(answer, torch.full((2, 2), float("nan")))) == 0.0
    two = np.column_stack([y[:, 0], np.full(len(y), np.nan)])
    trunk = train(new_trunk("cgcnn", 2, 0, blocks=1), items, two, schedule=SCHEDULE, seed=1, device=CPU)
    assert np.all(np.isfinite(represent(trunk, items, CPU)))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("held", [False, True])
def test_a_training_that_was_cut_off_goes_on(
    network: str, held: bool, items: list[Graph], y: Array, tmp_path: Path
) -> None:
    """Killed after any epoch and started again, a training ends with the weights of an uninterrupted one."""
    held_out = np.arange(len(items)) % 4 == 0 if held else None
    whole = train_noted(new(network), items, y, schedule=SCHEDULE, seed=3, device=CPU, held_out=held_out)

    class CutOffError(Exception):
        pass

    def cut(progress: Progress) -> None:
        if progress.epoch == 5:
            raise CutOffError

    def go(progress: object = None) -> training.Trained:
        return train_noted(
            new(network), items, y, schedule=SCHEDULE, seed=3, device=CPU, held_out=held_out,
            checkpoint=Checkpoint(tmp_path, every=2), progress=progress,
        )  # fmt: skip

    with pytest.raises(CutOffError):
        go(cut)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    resumed = go()
    assert any("went on after epoch 4" in note for note in resumed.notes)
    assert equal(resumed.trunk, whole.trunk)
    assert (resumed.epochs, resumed.best_epoch, resumed.held_out) == (whole.epochs, whole.best_epoch, whole.held_out)
    finished = go()  # the last epoch is kept as well
    assert equal(finished.trunk, whole.trunk)


def test_a_checkpoint_of_another_training_is_not_gone_on_with(
    items: list[Graph], y: Array, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Other labels, seeds, settings or crystals start anew, and say so; so does a damaged file."""
    kept = Checkpoint(tmp_path, every=1)
    go = {"schedule": SCHEDULE, "device": CPU}
    train_noted(new(), items, y, seed=3, checkpoint=kept, **go)
    plain = train(new(), items, -y, seed=3, **go)
    with caplog.at_level(logging.WARNING):
        other = train_noted(new(), items, -y, seed=3, checkpoint=Checkpoint(tmp_path), **go)
    assert "another training" in caplog.text
    assert equal(other.trunk, plain)
    for changed in ({"seed": 4}, {"seed": 3, "items": items[::-1]}):
        caplog.clear()
        arguments = {"items": items, **changed}
        train_noted(new(), arguments.pop("items"), -y, checkpoint=Checkpoint(tmp_path), **arguments, **go)
        assert "another training" in caplog.text
    kept.path.write_bytes(kept.path.read_bytes()[:-100])
    caplog.clear()
    assert equal(train_noted(new(), items, -y, seed=3, checkpoint=Checkpoint(tmp_path), **go).trunk, plain)
    assert "cannot be used" in caplog.text


def test_the_best_weights_on_held_out_labels_are_kept(items: list[Graph], y: Array) -> None:
    """What is kept is the average that did best on labels that were not trained on, and training stops in time."""
    held_out = np.arange(len(items)) % 3 == 0
    nonsense = np.where(held_out[:, None], -y, y)  # held-out labels that get worse while the others are learned
    seen: list[Progress] = []
    schedule = Schedule(epochs=40, batch=4, rate=5e-3, patience=4)
    found = train_noted(
        new(), items, nonsense, schedule=schedule, seed=0, device=CPU, held_out=held_out, progress=seen.append
    )
    losses = [progress.held_out for progress in seen]
    assert None not in losses
    assert found.best_epoch == int(np.argmin(losses)) + 1
    assert found.held_out == min(losses)
    assert found.epochs == found.best_epoch + 4 < 40
    assert any(f"stopped after {found.epochs} of 40" in note for note in found.notes)
    own = [item for item, held in zip(items, held_out, strict=True) if held]
    answer = torch.from_numpy(represent(found.trunk, own, CPU)[:, -1:])
    loss = float(training.masked_loss(answer, torch.from_numpy(nonsense[held_out])))
    assert loss == pytest.approx(found.held_out, rel=1e-4)


def test_held_out_labels_never_train(items: list[Graph], y: Array) -> None:
    """Absurd held-out labels leave the weights of the last epoch as they are without those labels."""
    held_out = np.arange(len(items)) % 3 == 0
    absurd = np.where(held_out[:, None], 1e6, y)
    one = train_noted(new(), items, y, schedule=Schedule(1, 4, 5e-3), seed=0, device=CPU, held_out=held_out)
    two = train_noted(new(), items, absurd, schedule=Schedule(1, 4, 5e-3), seed=0, device=CPU, held_out=held_out)
    assert equal(one.trunk, two.trunk)


def test_the_held_out_fold_follows_from_the_ids() -> None:
    """Few labels hold nothing out; more labels keep what was held out before, so a warm start has never seen it."""
    ids = [sha256(str(i)) for i in range(400)]
    assert hold_out(ids[:99]) is None
    first, second = hold_out(ids[:200]), hold_out(ids)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(second[:200], first)
    assert 0.05 < second.mean() < 0.15
    twice = hold_out([*ids, ids[int(np.argmax(second))]])
    assert twice is not None
    assert twice[-1]


def test_frozen_weights_stay(items: list[Graph], y: Array) -> None:
    """Parameters that ask for no gradient are not touched, not even by weight decay; nothing but those is refused."""
    trunk = new()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    for name, value in trunk.named_parameters():
        value.requires_grad_(name.startswith("head."))
    train(trunk, items, y, schedule=SCHEDULE, seed=0, device=CPU)
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("head.")
    for value in trunk.parameters():
        value.requires_grad_(False)
    with pytest.raises(Diverged, match="nothing to train"):
        train(trunk, items, y, schedule=SCHEDULE, seed=0, device=CPU)


def test_a_cpu_neither_compiles_nor_rounds(items: list[Graph], y: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU no training is compiled or done in bfloat16, however long; what is asked for by name is done."""

    def refuse(*_: object, **__: object) -> None:
        message = "compiled on a CPU"
        raise AssertionError(message)

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(training, "COMPILE_FROM", 0)
    single = train(new(), items, y, schedule=Schedule(2, 4, 5e-3, precision="float32"), seed=0, device=CPU)
    assert equal(train(new(), items, y, schedule=Schedule(2, 4, 5e-3), seed=0, device=CPU), single)
    for network in NETWORKS:
        schedule = Schedule(2, 4, 5e-3, precision="bfloat16")
        coarse = train(new(network), items, y, schedule=schedule, seed=0, device=CPU)
        assert network != "cgcnn" or not equal(coarse, single)
        assert all(value.dtype == torch.float32 for value in coarse.parameters())


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Collect the child processes that are started."""
    found: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def noting(*args: object, **more: object) -> subprocess.Popen[bytes]:
        found.append(start(*args, **more))
        return found[-1]

    monkeypatch.setattr(child.subprocess, "Popen", noting)
    return found


RECIPE = Recipe("cgcnn", 1, blocks=1)


def test_a_child_process_trains_the_same_weights(
    items: list[Graph], y: Array, started: list[subprocess.Popen[bytes]]
) -> None:
    """Apart or not, the weights are the same bit for bit on a CPU; progress comes through, and no process is left."""
    held_out = np.arange(len(items)) % 4 == 0
    go = {"schedule": SCHEDULE, "seed": 1, "device": CPU, "held_out": held_out}
    here = train_safely(RECIPE, RECIPE.build(0), items, y, apart=False, **go)
    assert not started
    seen: list[Progress] = []
    apart = train_safely(RECIPE, RECIPE.build(0), items, y, apart=True, progress=seen.append, **go)
    assert equal(apart.trunk, here.trunk)
    assert (apart.held_out, apart.best_epoch) == (here.held_out, here.best_epoch)
    assert [progress.epoch for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert "process of its own" in apart.notes[0]
    assert [process.returncode for process in started] == [0]


def test_formulas_travel_too() -> None:
    """What a network of formulas reads arrives as it was sent."""
    sent = [Formula(np.array([7, 25]), np.array([0.75, 0.25])), Formula(np.array([11]), np.array([1.0]))]
    for one, two in zip(child._unpacked(child._packed(sent), formulas=True), sent, strict=True):
        assert isinstance(one, Formula)
        assert one.key == two.key


def test_a_killed_child_is_tried_again_with_half_the_batch(
    items: list[Graph], y: Array, started: list[subprocess.Popen[bytes]]
) -> None:
    """What the operating system kills is trained anew with half the batch, and the notes say so."""

    def kill_the_first(progress: Progress) -> None:
        if len(started) == 1:
            os.kill(started[0].pid, signal.SIGKILL)

    go = {"seed": 1, "device": CPU}
    found = train_safely(
        RECIPE, RECIPE.build(0), items, y, schedule=Schedule(100, 4, 5e-3), apart=True, progress=kill_the_first, **go
    )
    assert [process.returncode for process in started] == [-signal.SIGKILL, 0]
    assert any("killed" in note and "tried again with 2" in note for note in found.notes)
    assert equal(found.trunk, train(RECIPE.build(0), items, y, schedule=Schedule(100, 2, 5e-3), **go))


def test_memory_that_never_suffices_ends_on_the_cpu_and_then_in_an_error(
    items: list[Graph], y: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is halved down to one crystal, then the CPU is tried, then the largest crystal is named."""
    tried: list[tuple[str, int]] = []
    really = child.train_noted
    fits = {"on": True}

    def scarce(trunk: Trunk, *args: object, schedule: Schedule, device: torch.device, **more: object) -> object:
        tried.append((device.type, schedule.batch))
        if device.type == "cuda":
            message = "CUDA out of memory. Tried to allocate 2 GiB"
            raise torch.OutOfMemoryError(message)
        if schedule.batch > 2 or not fits["on"]:
            message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"
            raise RuntimeError(message)
        return really(trunk, *args, schedule=schedule, device=device, **more)

    monkeypatch.setattr(child, "train_noted", scarce)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    go = {"schedule": SCHEDULE, "seed": 1, "apart": False}
    found = train_safely(RECIPE, RECIPE.build(0), items, y, device=torch.device("cuda"), **go)
    assert tried == [("cuda", 4), ("cuda", 2), ("cuda", 1), ("cpu", 4), ("cpu", 2)]
    assert sum("tried again" in note for note in found.notes) == 4
    assert any("on the CPU" in note for note in found.notes)
    plain = train(RECIPE.build(0), items, y, schedule=Schedule(6, 2, 5e-3), seed=1, device=CPU)
    assert equal(found.trunk, plain)
    fits["on"] = False
    with pytest.raises(SurrogateError, match="one crystal a step on the CPU; the largest has 2 atoms"):
        train_safely(RECIPE, RECIPE.build(0), items, y, device=CPU, **go)


def test_what_goes_wrong_in_the_child_comes_back_as_it_is(items: list[Graph], y: Array, tmp_path: Path) -> None:
    """Divergence is `Diverged` on both sides; any other failure repeats the child's last words."""
    with pytest.raises(Diverged, match="lower the learning rate"):
        train_safely(RECIPE, RECIPE.build(0), items, y, schedule=Schedule(20, 4, 1e30), seed=1, device=CPU, apart=True)
    (tmp_path / child.ERRORS).write_text("x" * 5000 + "ValueError: a shoe in the machine\n")
    with pytest.raises(SurrogateError, match=r"code 1: x{9,}ValueError: a shoe in the machine$"):
        child._answer(tmp_path, 1)


def test_short_trainings_start_no_process(items: list[Graph], y: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is started only where labels times epochs are worth it."""
    asked: list[str] = []
    for name in ("_here", "_in_a_child"):
        monkeypatch.setattr(
            child, name, lambda task, trunk, *_, name=name: asked.append(name) or training.Trained(trunk, 1, 1)
        )
    go = {"seed": 1, "device": CPU}
    epochs = -(-child.LONG // len(items))
    for wanted in (epochs - 1, epochs):
        train_safely(RECIPE, RECIPE.build(0), items, y, schedule=Schedule(wanted, 4, 5e-3), **go)
    assert asked == ["_here", "_in_a_child"]


PARENT = """
import sys
import numpy as np, torch
from orchestrator.domain import Crystal
from orchestrator.networks import child
from orchestrator.networks.graphs import build_many
from orchestrator.networks.training import Schedule
cell = lambda a: Crystal(((0, a, a), (a, 0, a), (a, a, 0)), ("Na", "Cl"), ((0, 0, 0), (0.5, 0.5, 0.5)))
recipe = child.Recipe("cgcnn", 1, blocks=1)
start = child.subprocess.Popen
def noting(*args, **more):
    process = start(*args, **more)
    print(process.pid, flush=True)
    return process
child.subprocess.Popen = noting
child.train_safely(
    recipe, recipe.build(0), build_many([cell(2.5), cell(2.6)], 4.0), np.array([[0.0], [1.0]]),
    schedule=Schedule(10**7, 2, 1e-3), seed=0, device=torch.device("cpu"), apart=True,
    progress=lambda progress: print("epoch", flush=True),
)
"""


def test_the_child_ends_with_its_parent() -> None:
    """Where the parent is killed, its training process is gone soon after."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == b"epoch\n"
        assert _lives(pid)
        parent.kill()
        parent.wait(30)
    until = time.monotonic() + 30
    while _lives(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    try:  # an orphan that nobody has collected yet is dead as well
        return not status.parent.parent.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()
