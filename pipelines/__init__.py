"""Components wired into versioned pipelines: compiled for a cluster, or run here with no Docker."""
