"""The verbs: one function a step, with the same name and parameters as its command, its component and its docs."""
