"""How fast do networks train and screen? Ours beside matgl's MEGNet with its own trainer, on the same crystals.

    python -m tests.benchmarks.speed --data matloop-data/public        goes on where it was cut off
    python -m tests.benchmarks.speed --data … --units 2                at most two units now

400 cubic perovskites train, 400 others are predicted: same epochs, same batch, same cutoff, one thread; and the error
on the others beside the speed, since a network that learns nothing is fast easily. matgl's arm is its documentation's:
`MGLDataset`, `MGLDataLoader`, `ModelLightningModule` and Lightning's `Trainer`, without the logger, the progress bar,
the checkpoints and the validation that would slow it down. On a CPU the time is the process's own, so that other work
on the computer does not count; on a GPU it is wall time.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.domain import Array, Crystal
from orchestrator.materials.files import crystal_from_cif
from tests.benchmarks.data import SOURCES, provide
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise

ROOT = HERE.parents[1]
SEEDS = 3
TRAINING, EPOCHS, BATCH, CUTOFF, RATE = 400, 60, 32, 4.0, 5e-3
SPLIT_SEED = 20261123
ARMS = ("matloop", "matloop_cgcnn", "matgl")
WORDS = {
    "matloop": "MEGNet, the default network, by Matloop's training",
    "matloop_cgcnn": "CGCNN, the fast network, by Matloop's training",
    "matgl": "matgl's MEGNet by Lightning, as its documentation trains it",
}
RATES = {
    "training": "training, graphs at hand",
    "training_from_structures": "training, graphs built first",
    "screening": "screening, graphs at hand",
    "screening_from_structures": "screening, graphs built first",
    "graphs": "structures to graphs",
}


@cache
def known(table: Path, size: int) -> tuple[list[Crystal], Array]:
    """Return crystals and their heats of formation in eV, those that train first."""
    with table.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(lines))[: 2 * size]
    crystals = [crystal_from_cif(lines[i]["cif"]) for i in order]
    return crystals, np.array([float(lines[i]["heat_all"]) for i in order])


def measure(unit: Unit, table: Path, size: int = TRAINING, epochs: int = EPOCHS) -> Mapping[str, Any]:
    """Train and screen with one arm and one seed."""
    arm, seed, device = unit.parameters["arm"], int(unit.parameters["seed"]), unit.parameters["device"]
    crystals, labels = known(table, size)
    work = _Work(crystals, labels, size, epochs, seed, device)
    return _matgl(work) if arm == "matgl" else _ours(work, {"matloop": "megnet", "matloop_cgcnn": "cgcnn"}[arm])


@dataclass(frozen=True, eq=False)
class _Work:
    """Crystals of which the first `size` train for `epochs`, and the labels of all in eV."""

    crystals: Sequence[Crystal]
    labels: Array
    size: int
    epochs: int
    seed: int
    device: str

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Return seconds and result; see the module's docstring for which seconds."""
        clock = time.perf_counter if self.device == "cuda" else time.process_time
        begun = clock()
        result = work()
        return clock() - begun, result

    def facts(self, built: float, trained: float, screened: float, answer: Array) -> dict[str, Any]:
        """Return rates in structures a second, and the mean error."""
        half = built / 2  # graphs of one of the two halves
        passes, others = self.size * self.epochs, len(self.labels) - self.size
        return {
            "graphs": len(self.labels) / built,
            "training": passes / trained,
            "training_from_structures": passes / (trained + half),
            "screening": others / screened,
            "screening_from_structures": others / (screened + half),
            "mean_error": float(np.abs(answer - self.labels[self.size :]).mean()),
        }


def _ours(work: _Work, network: str) -> dict[str, Any]:
    import torch  # noqa: PLC0415  only the work needs it

    from orchestrator.networks.graphs import build_many  # noqa: PLC0415  the same
    from orchestrator.networks.training import Schedule, train  # noqa: PLC0415  the same
    from orchestrator.networks.trunk import new_trunk, represent  # noqa: PLC0415  the same

    place, size, labels = torch.device(work.device), work.size, work.labels
    shift, scale = float(labels[:size].mean()), float(labels[:size].std())
    y = ((labels[:size] - shift) / scale)[:, None]
    few = build_many(work.crystals[:BATCH], CUTOFF)
    once = Schedule(1, BATCH, RATE)
    train(new_trunk(network, 1, 0, cutoff=CUTOFF), few, y[:BATCH], schedule=once, seed=0, device=place)  # warms up
    trunk = new_trunk(network, 1, work.seed, cutoff=CUTOFF)
    built, graphs = work.timed(lambda: build_many(work.crystals, CUTOFF, workers=1))
    schedule = Schedule(work.epochs, BATCH, RATE)
    trained, trunk = work.timed(lambda: train(trunk, graphs[:size], y, schedule=schedule, seed=work.seed, device=place))
    screened, rows = work.timed(lambda: represent(trunk, graphs[size:], place))
    return work.facts(built, trained, screened, shift + scale * rows[:, -1])


def _matgl(work: _Work) -> dict[str, Any]:
    import lightning as pl  # noqa: PLC0415  only this arm needs it
    import torch  # noqa: PLC0415  the same
    from matgl.ext.pymatgen import Structure2Graph, get_element_list  # noqa: PLC0415  the same
    from matgl.graph.data import MGLDataLoader, MGLDataset  # noqa: PLC0415  the same
    from matgl.models import MEGNet  # noqa: PLC0415  the same
    from matgl.utils.training import ModelLightningModule  # noqa: PLC0415  the same

    from orchestrator.materials.structures import to_pymatgen  # noqa: PLC0415  the same

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pl.seed_everything(work.seed, verbose=False)
    size, labels, device = work.size, work.labels, work.device
    structures = [to_pymatgen(crystal) for crystal in work.crystals]
    elements = get_element_list(structures)
    converter = Structure2Graph(element_types=elements, cutoff=CUTOFF)

    def dataset(part: slice, folder: str) -> Any:
        return MGLDataset(
            structures=structures[part],
            converter=converter,
            labels={"heat": labels[part].tolist()},
            save_cache=False,
            root=folder,
        )

    with tempfile.TemporaryDirectory() as folder:
        built, (first, second) = work.timed(
            lambda: (dataset(slice(None, size), f"{folder}/a"), dataset(slice(size, None), f"{folder}/b"))
        )
        inside, outside = MGLDataLoader(first, second, batch_size=BATCH, num_workers=0)
        network = MEGNet(element_types=elements, cutoff=CUTOFF)
        module = ModelLightningModule(
            model=network, data_mean=float(labels[:size].mean()), data_std=float(labels[:size].std())
        )
        trainer = pl.Trainer(
            max_epochs=work.epochs,
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trained, _ = work.timed(lambda: trainer.fit(module, inside))
        module.eval().to(device)

        def screen() -> Array:
            answers = []
            with torch.no_grad():
                for graph, lattice, state, _ in outside:
                    found = module(g=graph.to(device), lat=lattice.to(device), state_attr=state.to(device))
                    answers.append(found.reshape(-1).cpu().numpy() * module.data_std + module.data_mean)
            return np.concatenate(answers)

        screened, answer = work.timed(screen)
    return work.facts(built, trained, screened, answer)


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn the lines into rows: rates, how many times matgl's they are (paired by seed), and errors."""
    found: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
    for line in lines:
        p = line["parameters"]
        found.setdefault((p["device"], p["arm"]), {})[p["seed"]] = line["result"]
    made = []
    for (device, arm), by_seed in found.items():
        suffix = "" if device == "cpu" else f"_{device}"
        theirs = found[device, "matgl"]
        for name in RATES:
            values = [result[name] for result in by_seed.values()]
            made.append(row(arm, f"{name}{suffix}", "structures/s", values, low=min(values), high=max(values)))
            if arm != "matgl":
                times = [by_seed[seed][name] / theirs[seed][name] for seed in by_seed if seed in theirs]
                made.append(row(arm, f"{name}{suffix}_times_matgl", "times", times, low=min(times), high=max(times)))
        errors = [result["mean_error"] for result in by_seed.values()]
        made.append(row(arm, f"mean_error{suffix}", "eV", errors, low=min(errors), high=max(errors)))
    return made


def units(seeds: int, devices: Sequence[str]) -> list[Unit]:
    """List everything that belongs to the benchmark."""
    return [
        Unit(f"{device}/{arm}/{seed}", {"device": device, "arm": arm, "seed": seed})
        for device in devices
        for seed in range(seeds)
        for arm in ARMS
    ]


def learning_code() -> str:
    """Return the hash of the room that is measured: a change there measures anew."""
    return protocol((ROOT / "orchestrator" / "networks").glob("*.py"))


def main() -> None:
    """Measure what is missing and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "matloop-data" / "public", help="folder of `make data`")
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    parser.add_argument(
        "--try", dest="small", type=int, default=None, metavar="N", help="only try it: N crystals, no line"
    )
    arguments = parser.parse_args()
    table = arguments.data / SOURCES["discovery"].name
    if not table.exists():
        table = provide(SOURCES["discovery"], ROOT.parent / "shared" / "data", arguments.data)
    import torch  # noqa: PLC0415  only the work needs it

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # Lightning's advice on workers and matgl's on versions
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    if arguments.small is not None:
        for unit in units(1, devices):
            result = measure(unit, table, arguments.small, epochs=10)
            say(f"{unit.key}: {', '.join(f'{name} {value:.3g}' for name, value in result.items())}")
        return
    everything = units(SEEDS, devices)
    code = learning_code()
    lines = run_missing(
        "speed",
        everything,
        lambda unit: {**measure(unit, table), "code": code},
        protocol=protocol([Path(__file__), table]),
        packages=("lightning", "matgl", "numpy", "torch", "torch-geometric"),
        counts=lambda line: line["parameters"]["arm"] == "matgl" or line["result"]["code"] == code,
        most=arguments.units,
    )
    if len(lines) < len(everything):
        say(f"speed: {len(lines)} of {len(everything)} units are measured; run again to go on")
        sys.exit(0 if arguments.units is not None else 1)
    made = rows_of(lines)
    summarise(
        "speed",
        made,
        work=(
            f"{TRAINING} cubic perovskites trained for {EPOCHS} epochs, {BATCH} a step, {TRAINING} others predicted;"
            f" graphs within {CUTOFF:g} Å, one thread. Structures a second of process time (on a GPU of wall time), and"
            f" the mean error of the heat of formation; median, smallest and largest of {SEEDS} seeds."
        ),
        command="make bench-speed",
        protocol=protocol([Path(__file__), table]),
        arms=WORDS,
    )
    for one in made:
        if one["metric"].endswith("_times_matgl"):
            say(f"{one['who']}: {one['metric']} {one['median']:.2f}")


if __name__ == "__main__":
    main()
