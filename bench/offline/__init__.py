"""What is known of a GPU without one: compiled resources, emulated runs, counts, least times."""
