"""Components wired into versioned pipelines: compiled for a cluster, or run on this machine without Docker."""
