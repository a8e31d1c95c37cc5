"""Race on 1,728 direct arylations: the best yield, in batches of three (Shields et al. 2021).

python -m tests.benchmarks.direct_arylation --data matloop-data/public
"""

from tests.benchmarks.race import run

TEXT = (
    "1,728 direct arylations, yield to be maximised: 3 random starts, batches of 3, 90 evaluations; base, ligand"
    " and solvent as words, or as counts of symbols in their SMILES. Means with 95 % bootstrap intervals."
)

if __name__ == "__main__":
    run("direct_arylation", TEXT, ["direct_arylation"])
