"""What Backdrop does on a Kubeflow Pipelines server: upload versions, run and schedule them, status, preflight."""
