"""`python -m cluster` is the command `agentmill`."""

from cluster.cli import main

main()
