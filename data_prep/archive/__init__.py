"""The archive of a user: scenes, sensors, and collections of sample files."""
