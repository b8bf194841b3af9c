"""Used by every layer: errors, local and S3 storage, progress, processes, devices."""

from backdrop.common.environment import bypass_proxy, tidy_settings

# Everything of ours that talks to a server imports this package first.
tidy_settings()
bypass_proxy()
