"""Race on 600 printed crossed barrels: the toughest 5 %, from two random ones, one at a time (Liang et al. 2021).

python -m tests.benchmarks.crossed_barrel --data matloop-data/public
"""

from tests.benchmarks.race import run

TEXT = (
    "600 crossed barrels (mean of equal inputs), toughness to be maximised: 2 random starts, 1 at a time, until"
    " 80 % of the best 5 % are found, 300 at most. AF: evaluations of random choice (level × rows) per evaluation;"
    " the authors' own curve has AF_80 2.84 and EF_max 3.90. Means with 95 % bootstrap intervals."
)

if __name__ == "__main__":
    run("crossed_barrel", TEXT, ["crossed_barrel"])
