"""Where each microsecond of a call goes; `__main__` says how it is measured."""
