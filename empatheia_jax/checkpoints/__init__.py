"""A run on disk: its folder and config, checkpoints and their manifests, the base, converted weights."""
