"""The documentation site: sources of all pages in one folder, and the site that Zensical makes of them.

python -m docs.site --output site        what `make docs` runs
"""
