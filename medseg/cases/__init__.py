"""A folder of cases: read ahead, segment, write, record, compare with the training data."""
