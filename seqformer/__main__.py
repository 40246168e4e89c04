"""`python -m seqformer COMMAND ...`, for torchrun and for a checkout that is not installed."""

from seqformer.cli.main import console

if __name__ == "__main__":
    console()
