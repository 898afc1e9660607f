"""Tables of pixel series as data for fine-tuning and prediction: Parquet or CSV files that a `table.yaml` describes."""
