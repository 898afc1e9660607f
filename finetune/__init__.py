"""Fine-tuning of the encoder to mapping tasks, and georeferenced maps."""
