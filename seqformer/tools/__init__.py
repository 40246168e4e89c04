"""Commands on data sets and results, one module each: `python -m seqformer.tools.NAME --help`.

check, stats, split, convert, merge and remap work on annotation files in YouTube-VIS layout;
analyse, compare and report on results. None needs torch.
"""
