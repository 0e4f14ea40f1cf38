"""Programs whose recordings are shipped in traces/data; only torch is needed to run one.

Each is an ordinary program, small enough to read: `python -m tightfit.experiments.corpus.lora` runs
one on a GPU. `rerecord.py` records all of them on the stand-in. Whatever decides about sizes, such
as which expert a token goes to, is drawn on the CPU from a seed, because the stand-in computes
nothing; so a recording on a GPU asks for the same.
"""
