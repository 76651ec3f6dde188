"""What a server has loaded, and switching it by hand or by the clock: ``python -m clients models``."""
