"""The steps: one function each, with the same name and parameters as its command, component and docs page."""
