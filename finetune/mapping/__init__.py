"""Maps of scenes: tiling, blocks, files."""
