"""A search on another cluster: Ray's job API, KubeRay, and their authentication."""
