"""Random changes of training samples, on the host or on the device that trains."""
