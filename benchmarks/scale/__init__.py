"""How far one broker goes; `__main__` says what is measured, and in which order to read this."""
