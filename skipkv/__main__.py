"""`python -m skipkv` is the command `skipkv`."""

from skipkv.cli import main

if __name__ == "__main__":
    main()
