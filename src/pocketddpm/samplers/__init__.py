"""The samplers: one algorithm per file. See `pocketddpm.catalog`."""
