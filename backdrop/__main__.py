"""`python -m backdrop`: the command `backdrop`."""

from backdrop.app.cli import main

main()
