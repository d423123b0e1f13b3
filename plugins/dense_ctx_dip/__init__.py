"""Placeholder until its parts are written."""
