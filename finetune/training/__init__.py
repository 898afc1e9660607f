"""Training: loop, losses, best epoch, resuming."""
