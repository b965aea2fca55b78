"""Training on Ray Train: driver, per-worker loop, data order."""
