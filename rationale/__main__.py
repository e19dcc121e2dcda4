"""`python -m rationale` is the console script `rationale`."""

from rationale.command.cli import main

if __name__ == "__main__":
    main()
