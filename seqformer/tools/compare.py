"""`seqformer compare`, by its former name."""

from seqformer.former import Former

main = Former("compare")

if __name__ == "__main__":
    main.console()
