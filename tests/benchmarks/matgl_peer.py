"""matgl's MEGNet, trained by matgl's own Lightning module, as its documentation does."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence

import numpy as np

from orchestrator.domain import Array, Candidate
from orchestrator.materials.structures import to_pymatgen
from orchestrator.networks.crystals import crystals_of

BATCH, CUTOFF = 32, 4.0
STEPS, MOST_EPOCHS = 6000, 100
"""At most so many steps, in at most so many passes over the labels."""


def train_and_predict(train: Sequence[Candidate], labels: Array, test: Sequence[Candidate]) -> Array:
    """Train on n candidates and predict k others.

    Args:
        train: labelled candidates, n.
        labels: n.
        test: k others.

    Returns:
        k predictions.
    """
    import lightning as pl  # noqa: PLC0415  ten seconds to import
    import torch  # noqa: PLC0415  the same
    from matgl.ext.pymatgen import Structure2Graph, get_element_list  # noqa: PLC0415  the same
    from matgl.graph.data import MGLDataLoader, MGLDataset  # noqa: PLC0415  the same
    from matgl.models import MEGNet  # noqa: PLC0415  the same
    from matgl.utils.training import ModelLightningModule  # noqa: PLC0415  the same

    warnings.filterwarnings("ignore")  # Lightning's advice on workers, and matgl's on versions
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pl.seed_everything(0, verbose=False)
    structures = [[to_pymatgen(crystal) for crystal in crystals_of(part)] for part in (train, test)]
    elements = get_element_list([*structures[0], *structures[1]])
    converter = Structure2Graph(element_types=elements, cutoff=CUTOFF)
    values = [labels.tolist(), [0.0] * len(test)]
    with tempfile.TemporaryDirectory() as folder:
        inside, outside = (
            MGLDataset(
                structures=own,
                converter=converter,
                labels={"heat": given},
                save_cache=False,
                root=f"{folder}/{name}",
            )
            for name, own, given in zip(("train", "test"), structures, values, strict=True)
        )
        first, second = MGLDataLoader(inside, outside, batch_size=BATCH, num_workers=0)
        module = ModelLightningModule(
            model=MEGNet(element_types=elements, cutoff=CUTOFF),
            data_mean=float(labels.mean()),
            data_std=float(labels.std()),
        )
        trainer = pl.Trainer(
            max_epochs=min(MOST_EPOCHS, STEPS * BATCH // len(train)),
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, first)
        module.eval()
        answers = []
        with torch.no_grad():
            for graph, lattice, state, _ in second:
                found = module(g=graph, lat=lattice, state_attr=state).reshape(-1).numpy()
                answers.append(found * module.data_std + module.data_mean)
    return np.concatenate(answers).astype(np.float64)
