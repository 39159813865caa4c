"""`python -m gateway` is `genba`."""

from .cli import main

main()
