"""Race on 164 silver nanoparticle recipes: the best 5 %, from two random ones, one at a time (Liang et al. 2021).

python -m tests.benchmarks.agnp --data matloop-data/public
"""

from tests.benchmarks.race import run

TEXT = (
    "164 recipes of silver nanoparticles (mean of equal inputs), spectral loss to be minimised: 2 random starts,"
    " 1 at a time, until 80 % of the best 5 % are found. Means with 95 % bootstrap intervals."
)

if __name__ == "__main__":
    run("agnp", TEXT, ["agnp"])
