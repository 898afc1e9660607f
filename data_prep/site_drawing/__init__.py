"""Sites drawn from a land-cover map, evenly over its classes and over the ground."""
