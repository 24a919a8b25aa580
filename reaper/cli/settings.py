"""The settings of one data directory: `reaper.yaml` in it, or the environment."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from reaper.domain.errors import UsageError

VARIABLE = "REAPER_STORE"
FILE = "reaper.yaml"
_FORM = "postgresql://USER@HOST:PORT/DATABASE; leave it out to use a file in the data directory"


def store_address(home: Path) -> str | None:
    """The address of the Postgres that holds the state; None: a file in the data directory.

    REAPER_STORE, or `store:` in reaper.yaml. UsageError: it cannot be understood; the address, which may
    hold a password, is not repeated.
    """
    named, where = os.environ.get(VARIABLE), VARIABLE
    if not named:
        named, where = _in_file(home / FILE), f"{home / FILE}: store"
    if named and not _is_postgres(named):
        raise UsageError(f"{where} has to be {_FORM}")
    return named or None


def _is_postgres(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in ("postgresql", "postgres") and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, half a bracket
        return False


def _in_file(path: Path) -> str | None:
    if not path.exists():
        return None
    import yaml
    from pydantic import BaseModel, ConfigDict, ValidationError

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
        store: str | None = None

    try:
        return Settings.model_validate(yaml.safe_load(path.read_text()) or {}).store
    except yaml.MarkedYAMLError as error:  # its own words would repeat the line, which may hold a password
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line} is no YAML: {error.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise UsageError(f"{path}: {faults}. The only setting is `store: postgresql://...`") from error
