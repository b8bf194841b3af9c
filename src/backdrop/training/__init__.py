"""Trains a member: samples, optimizer step, checkpoints, loop, and the member folder."""
