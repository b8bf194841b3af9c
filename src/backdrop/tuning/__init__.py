"""The schedule search on Ray, here or on a cluster. The only place that imports ray, optuna or kubernetes."""
