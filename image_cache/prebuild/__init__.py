"""Thousands of images, each given a layer: what there is to do, what was done, and doing it.

`lists` reads what is wanted, `journal` keeps what is known, `planning` says what is to do and what it will
cost, `running` does it, `report` tells it.
"""
