"""``python -m edgevit``: the command line."""

from edgevit.cli.app import main

if __name__ == "__main__":
    main()
