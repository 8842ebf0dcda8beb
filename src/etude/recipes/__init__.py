"""Whole trainings as functions. Their options import no torch, so that `--help` is instant."""
