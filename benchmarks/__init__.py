"""`make bench`: the broker beside its peers and beside what the machine allows.

The method is that of the project's performance notes: one cheap child for every subject, a load generator
that checks every answer, subjects interleaved in rounds, medians and ratios within one run. Figures of
different runs must not be compared: a shared machine wanders by a third from hour to hour.

The broker is measured between clients and servers of both eras (docs/revisions.md): `stdio-broker` is
legacy to legacy, the others say which, and their ratios tell what the modern era and the translation cost.

Reading order: `__main__` (what a run is), `rounds` (what runs when), `subjects` and `peers`, `catalogue` with
`scenarios`, `large` and `stopping`, `load` and `programs` (the tools); then what is made of the figures:
`results`, `figures`, `goals`, `tables`, `report`, `plots`, `draw`, `document`, `render`; and `regression`.
The programs that run beside it: `child.c`, `load.c`, `answer.c`, `bridge.c`, the stand-ins `child.py` and
`loader.py`, and `constant.py`. Commands of their own: `supervisor`, `scale`, `soak`, `profile`.
"""
