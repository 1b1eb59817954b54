"""`python -m likeness.cli` is `likeness`."""

from likeness.cli import main

if __name__ == "__main__":
    main()
