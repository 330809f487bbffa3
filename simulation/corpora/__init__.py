"""The stage `corpora`: all corpora from one set of traces, under one specification of the mixture.

    simulate/{conversations,turns} + refine/calls (+ public dialogues, the pack's documents, pairs made by hand)
        -> corpora/{cpt,sft,dpo,drafter,calibration,eval}/*.parquet and README.md, the dataset card

One pass over the traces feeds every corpus; each corpus is sieved and mixed on disk (`sieve`), so that the driver's
memory does not grow with the traces. `build.run` is the stage; the other modules are named for what they make.
"""

from simulation.corpora.build import run as run
from simulation.corpora.settings import CorporaSettings as CorporaSettings
