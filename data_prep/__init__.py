"""From satellite scenes to verified WebDataset shards."""
