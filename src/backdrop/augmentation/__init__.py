"""Random augmentation of training samples, on the host or on the training device."""
