"""Other tools' formats: one file per format, each a pure function of a model or of files."""
