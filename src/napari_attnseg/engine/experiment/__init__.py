"""The papers' experiments on any data set: a plan of runs, their records, tables and pictures.

``plan`` says what is to be run, ``run`` runs it (and goes on after a kill), ``records`` keeps one
JSON per finished run, ``tables`` and ``plot`` make the report.
"""
