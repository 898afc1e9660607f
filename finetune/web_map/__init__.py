"""A map in the browser: the maps of a run beside the images, labels and series that they were made from."""
