"""Measures of ordinal agreement."""
