"""What several tests share: processes, the leak check, the virtual clock, a running broker."""
