"""`seqformer analyse`, by its former name."""

from seqformer.former import Former

main = Former("analyse")

if __name__ == "__main__":
    main.console()
