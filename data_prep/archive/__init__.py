"""The archive: scenes, sensors, and the files that they stand for."""
