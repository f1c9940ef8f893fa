"""``python -m adaptsvc``."""

from adaptsvc.cli import main

if __name__ == "__main__":
    main()
