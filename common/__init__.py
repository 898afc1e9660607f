"""What sharding, pretraining and fine-tuning share: command line, whole files, retries, executors, progress, storage, ranks."""
