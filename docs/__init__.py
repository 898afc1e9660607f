"""The pages of the documentation, and in `generate/` what fills them from the code."""
