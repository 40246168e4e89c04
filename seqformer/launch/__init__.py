"""Ready-to-run examples; copy one, change the paths. They are shell scripts, not imported."""
