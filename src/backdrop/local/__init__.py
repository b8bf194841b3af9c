"""Runs the training pipeline on this machine, in processes or in containers."""
