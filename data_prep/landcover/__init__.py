"""Land cover: legends, maps, and labels of pixels."""
