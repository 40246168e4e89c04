"""Models of other libraries that run deformable attention, with random weights."""
