"""Training: Lightning modules as thin adapters over the objectives."""
