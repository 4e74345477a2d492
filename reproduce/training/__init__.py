"""Training: recipe, batches, the loop, recorded steps, checkpoints, devices."""
