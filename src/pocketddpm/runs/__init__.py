"""One training run in its folder: data, log, previews, evaluation, signals."""
