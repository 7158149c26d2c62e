"""The networks: one architecture per file. See `pocketddpm.catalog`."""
