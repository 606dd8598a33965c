"""`python -m stdio_broker` is `stdio-broker`."""

from .cli import main

if __name__ == "__main__":
    main()
