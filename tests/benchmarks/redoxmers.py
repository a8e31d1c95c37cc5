"""Race on 1,408 redoxmers with three objectives: share of the hypervolume (data of Olympus).

python -m tests.benchmarks.redoxmers --data matloop-data/public
"""

from tests.benchmarks.race import run

TEXT = (
    "1,408 redoxmers, three objectives to be minimised: 10 random starts, 1 at a time, 200 evaluations;"
    " hypervolume as a share of that of the whole table, substituents as words or with the descriptors of the data"
    " set. Olympus publishes BoTorch at 0.931 and 0.990 (50 and 200, as words). Means with 95 % bootstrap"
    " intervals."
)

if __name__ == "__main__":
    run("redoxmers", TEXT, ["redoxmers", "redoxmers_descriptors"])
