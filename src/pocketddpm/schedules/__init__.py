"""The noise schedules: one curve per file. See `pocketddpm.catalog`."""
