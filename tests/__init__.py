"""Tests of stdio-broker: the tree mirrors `src/stdio_broker`, one file per module."""
