"""Evaluation while pretraining: fractions of the validation split, and a linear probe."""
