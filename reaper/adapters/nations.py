"""Public holidays, one country's rules at a time.

The `holidays` package imports all of its 250 countries when one is asked for, which takes 8 MB and half a second of
every process that reads policies (measured, 0.109). Their modules do not need each other but for a few.
"""

import importlib.util
import sys
import threading
from collections.abc import Iterable
from datetime import date
from typing import Any

import holidays
from holidays.registry import EntityLoader

_COUNTRIES = "holidays.countries"
_lock = threading.Lock()


def subdivisions_of(country: str) -> tuple[str, ...] | None:
    """The parts of a country that have holidays of their own. None: it is no country whose holidays are known."""
    if country not in EntityLoader.get_country_codes():
        return None
    _import_one_at_a_time()
    return tuple(getattr(holidays, country).subdivisions)


def holidays_of(country: str, subdivision: str | None, years: Iterable[int]) -> tuple[tuple[date, str], ...]:
    """The public holidays of some years, in order. NotImplementedError: there is no such country or subdivision."""
    _import_one_at_a_time()
    return tuple(sorted(holidays.country_holidays(country, subdiv=subdivision, years=years).items()))


def _import_one_at_a_time() -> None:
    """Put an empty package in the place of the countries', which becomes the real one for whoever wants more of it."""
    with _lock:
        spec = importlib.util.find_spec(_COUNTRIES) if _COUNTRIES not in sys.modules else None
        if spec is None or spec.loader is None:
            return
        loader, package = spec.loader, importlib.util.module_from_spec(spec)

        def the_rest(name: str) -> Any:
            if name.startswith("__"):  # the import system's own questions
                raise AttributeError(name)
            vars(package).pop("__getattr__", None)
            loader.exec_module(package)
            return getattr(package, name)

        vars(package)["__getattr__"] = the_rest
        sys.modules[_COUNTRIES] = package
        vars(holidays)["countries"] = package
