"""Modules of the user's own, which `_target_` names: found, put on record, and loaded by their files."""
