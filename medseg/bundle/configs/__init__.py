"""What the files of a new bundle say."""
