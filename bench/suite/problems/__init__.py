"""Random problems for every operator, with their float64 answers: for tests and the emulator."""
