"""One file a step: its Kubeflow component, whose body only calls the step.

A body runs alone in its container, so it imports what it uses. `pages` holds what bodies share; it declares no
component, because a module that does can't be imported inside one.
"""
