"""Runs a search on another cluster, through Ray's job API or KubeRay, with their authentication."""
