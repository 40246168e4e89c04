"""Benchmarks. The modules here are commands, `python -m bench.<name> --help`, made of four folders:

suite/      cases, their inputs and costs, and how they are run
baselines/  what ours is measured against
offline/    what is known of a GPU without one: compiled resources, emulated runs, least times
report/     the page, the plots and the README's figures, from the records in results/
"""
