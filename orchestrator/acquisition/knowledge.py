"""What would be known of each candidate after pending trials and earlier picks, for policies that need mean and sd.

After Desautels, Krause, Burdick, J. Mach. Learn. Res. 15, 4053 (2014) (GP-BUCB): the mean stays, and the standard
deviation of each candidate shrinks by what the others will tell. How much they tell is read from joint draws, so that
any surrogate with draws can be used. With pessimistic fantasies the means near pending trials get worse, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.acquisition.covariances import Covariances
from orchestrator.acquisition.fantasies import believed
from orchestrator.acquisition.situation import Situation, check_finite, predict
from orchestrator.domain import Array, Candidate, Prediction


class Knowledge:
    """Predictions of n candidates as they will be once what is pending and picked has been measured.

    Args:
        situation: with a trained surrogate.
        candidates: n open candidates.
        prediction: of them, now.
        draws: functions drawn for the covariances.

    Raises:
        NonFiniteValues: something drawn is NaN or infinite.
    """

    def __init__(
        self, situation: Situation, candidates: Sequence[Candidate], prediction: Prediction, draws: int
    ) -> None:
        self.situation = situation
        self.first = len(situation.pending)
        known = [*situation.pending, *candidates]
        drawn = np.asarray(situation.trained.draw(known, draws, situation.seed_for("draws")), dtype=np.float64)
        check_finite(np.isfinite(drawn).all(axis=(0, 2)), "drawn candidates")
        ahead = [predict(situation.trained, situation.pending)] if self.first else []
        parts = [*ahead, prediction]
        self.mean: Array = np.concatenate([part.mean for part in parts]).astype(np.float64)
        self.epistemic: Array = np.concatenate([part.epistemic for part in parts])
        self.noise = prediction.noise
        self.covariances = Covariances(drawn, np.mean(prediction.noise, axis=0) ** 2)
        for j in range(self.first):
            self._measure(j)

    def now(self) -> Prediction:
        """Return what is known of the n candidates now."""
        epistemic = (self.epistemic * self.covariances.left())[self.first :]
        return Prediction(self.mean[self.first :], epistemic, self.noise)

    def include(self, i: int) -> None:
        """Count candidate i as measured once."""
        self._measure(self.first + i)

    def _measure(self, j: int) -> None:
        left = self.epistemic[j] * self.covariances.left()[j]
        value = believed(self.situation.problem, self.mean[j], left, self.situation.fantasy)
        for m, matrix in enumerate(self.covariances.matrices):
            if value[m] != self.mean[j, m] and matrix[j, j] > 0:
                power = matrix[j, j] + self.covariances.noise[m]
                self.mean[:, m] += matrix[:, j] / power * (value[m] - self.mean[j, m])
        self.covariances.include(j)
