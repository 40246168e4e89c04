"""What ours is measured against: the published formulation, the original code, other operators."""
