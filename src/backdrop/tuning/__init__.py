"""The schedule search on Ray, on this machine or on a cluster. Only this package imports ray and optuna."""
