"""The protocol as pure values: no I/O, no clock, no logger. Bytes in, values and bytes out."""
