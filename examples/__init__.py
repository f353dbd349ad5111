"""Pipelines to read, run and copy. See README.md beside this file."""
