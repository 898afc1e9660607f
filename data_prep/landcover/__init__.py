"""Land cover: legends, maps, land cover embedded in samples; and the labels that samples carry for fine-tuning."""
