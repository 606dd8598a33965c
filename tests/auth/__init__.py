"""Tests of the auth package, and what they share."""
