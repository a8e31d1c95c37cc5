"""Race on two plates of some 2,120 oxides each: the catalysts with the lowest overpotential (Rohr et al. 2020).

python -m tests.benchmarks.oer --data matloop-data/public
"""

from tests.benchmarks.race import run

TEXT = (
    "Two plates of 2,121 and 2,119 six-element oxides, OER overpotential to be minimised: 10 random starts, 1 at"
    " a time, 200 evaluations; first_top1: until the first of the best 1 %. Means with 95 % bootstrap intervals."
)

if __name__ == "__main__":
    run("oer", TEXT, ["oer", "oer_3851"])
