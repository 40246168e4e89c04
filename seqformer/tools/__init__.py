"""What `seqformer data ...` does with annotation files in YouTube-VIS layout. None needs torch."""
