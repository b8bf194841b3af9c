"""Kubeflow Pipelines from outside: versions, recurring runs, status, preflight."""
