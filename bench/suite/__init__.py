"""What is measured: the cases, their inputs and costs, and the ways of running them."""
