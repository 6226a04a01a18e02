"""The local page: one page and its files over HTTP, for this machine and whoever holds the token."""
