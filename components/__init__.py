"""One file per step: its Kubeflow component, whose body only calls the step.

A body runs on its own in its container, so it imports what it uses. What bodies share is in `pages` and `plans`, which
declare no component: a module that does can't be imported inside one.
"""
