"""The HTTP service: `backdrop serve`. Only this package imports fastapi, uvicorn and prometheus_client."""
