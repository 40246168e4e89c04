"""The commands: `seqformer train`, `seqformer data check`, ... one module each, named like it.

A module holds the options of its command and what is printed; everything else is imported when the
command acts, so that `--help` and typing errors answer at once and load no torch.
"""
