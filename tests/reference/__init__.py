"""Textbook forms that the tests compare the library with."""
