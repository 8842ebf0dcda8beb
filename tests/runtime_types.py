"""The checker that tests apply to every function of the package: an int is a float, as in static typing (PEP 484)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
