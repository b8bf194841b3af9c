"""Hides the package of this name, which comes with the tool that lists an image's contents.

jsonschema uses it if it's there, and it takes a second to import: in each process that imports kfp, Ray or kubernetes.
"""

raise ImportError("tests do without it")
