"""`seqformer data convert`, by its former name."""

from seqformer.former import Former

main = Former("data convert")

if __name__ == "__main__":
    main.console()
