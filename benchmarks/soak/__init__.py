"""Half an hour of mixed load; `__main__` says what is done, and how it is judged."""
