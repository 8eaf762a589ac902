"""`python -m pipeline` is `mailfold`."""

from pipeline.cli import main

main()
