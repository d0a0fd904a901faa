"""Modules that one paper needs."""
