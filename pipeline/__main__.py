"""`python -m pipeline` is `mailfold`."""

from pipeline.cli.main import main

main()
