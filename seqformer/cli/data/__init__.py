"""The commands on annotation files: `seqformer data check`, `seqformer data stats`, ..."""
