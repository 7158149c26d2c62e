"""Measuring generated images: features, distances between sets, likelihood, memorisation."""
