"""Photographs and masks: found, checked, read, cached, split into folds."""
