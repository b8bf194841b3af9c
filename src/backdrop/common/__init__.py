"""Used by every layer: errors, local and S3 storage, progress, processes, devices."""
