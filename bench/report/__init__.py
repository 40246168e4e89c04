"""The report of all measurements: `python -m bench.report` writes `bench/REPORT.md` and its plots.

Everything on the page is computed from the records below `bench/results/`, the declared cases, and
the tables of this package; nothing is written by hand.
"""
