"""Logs of a run: TensorBoard, metrics.jsonl, figures."""
