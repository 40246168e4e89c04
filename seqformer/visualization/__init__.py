"""Results and ground truth as pictures and videos. Needs no torch."""
