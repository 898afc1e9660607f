"""What the labels of scenes hold: GeoTIFFs, pictures and a table."""
