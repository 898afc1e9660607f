"""Descriptions of trained models, and sending models to Hugging Face's hub."""
