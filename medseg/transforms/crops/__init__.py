"""Everything random: where a crop lies, and how it is changed."""
