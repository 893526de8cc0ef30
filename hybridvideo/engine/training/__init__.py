"""Training: what a run is, its steps, its objective, its checkpoints."""
