"""Back-test a campaign file on known data: how fast would it have found what is already known?

The same planner that runs campaigns chooses from a pool whose answers stand in a table. Scored are recall of the best
share of the pool, simple regret, hypervolume, and the acceleration and enhancement factors against the exact
expectation of random choice without replacement; of campaigns with a learning goal, how wrong the surrogate still is
over the pool.

Sources: acceleration and enhancement factor: Rohr et al., Chem. Sci. 11, 2696 (2020), doi:10.1039/C9SC05999G;
Liang et al., npj Comput. Mater. 7, 188 (2021), doi:10.1038/s41524-021-00656-9.
"""

from orchestrator.replay.arms import OWN, arms, replay
from orchestrator.replay.campaigns import Ask, Trajectory, replay_once
from orchestrator.replay.lessons import Lesson, lesson_of
from orchestrator.replay.page import draw_plot, write_page
from orchestrator.replay.rows import as_json
from orchestrator.replay.scores import Curve, Interval, Score, expected_at_random, interval, paired, score
from orchestrator.replay.truth import Truth, known, prepare

__all__ = [
    "OWN",
    "Ask",
    "Curve",
    "Interval",
    "Lesson",
    "Score",
    "Trajectory",
    "Truth",
    "arms",
    "as_json",
    "draw_plot",
    "expected_at_random",
    "interval",
    "known",
    "lesson_of",
    "paired",
    "prepare",
    "replay",
    "replay_once",
    "score",
    "write_page",
]
