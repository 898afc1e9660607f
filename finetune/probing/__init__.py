"""Probes: simple classifiers on the embeddings of labelled pixels."""
