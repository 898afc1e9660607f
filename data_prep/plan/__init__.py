"""The plan of a corpus: which sample goes into which shard."""
