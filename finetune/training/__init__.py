"""Training: loop, schedule, losses, best epoch, checkpoints."""
