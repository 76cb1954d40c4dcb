"""Measures a whole gateway under load, compares settings, searches for better ones, and says what to change."""
