"""The catalogue of feature extractors: one file each, which names its files and their hashes.

An entry has ROLE ('metric': gives features; 'judge': reads labels and nothing else), and WEIGHTS
and MOMENTS, which map a data set's name to an `Asset`. scripts/train_extractors.py writes the files
and the hashes.
"""
