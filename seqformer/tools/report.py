"""`seqformer report`, by its former name."""

from seqformer.former import Former

main = Former("report")

if __name__ == "__main__":
    main.console()
