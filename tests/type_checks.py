"""The check of the library's annotations at each call. An int is a float there, as PEP 484 has it."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
