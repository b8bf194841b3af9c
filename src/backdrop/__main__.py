"""`python -m backdrop`: the command line, for processes that know their Python but not their PATH."""

from backdrop.cli.app import main

main()
