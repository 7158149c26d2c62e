"""The data sets: one source per file. See `pocketddpm.catalog`."""
