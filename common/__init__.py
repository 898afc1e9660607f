"""Code that all three stages share: command line, files, executors, progress, ranks."""
