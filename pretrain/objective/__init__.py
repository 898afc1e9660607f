"""The objective: predict the land cover of a sample, with a mean teacher against the noise of land-cover maps."""
