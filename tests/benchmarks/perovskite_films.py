"""Race on 94 mixed perovskite films: the most stable 5 %, from two random ones (Liang et al. 2021).

python -m tests.benchmarks.perovskite_films --data matloop-data/public
"""

from tests.benchmarks.race import run

TEXT = (
    "94 mixed perovskite films (mean of equal inputs), instability index to be minimised: 2 random starts, 1 at a"
    " time, until 80 % of the best 5 % are found. Means with 95 % bootstrap intervals."
)

if __name__ == "__main__":
    run("perovskite_films", TEXT, ["perovskite_films"])
