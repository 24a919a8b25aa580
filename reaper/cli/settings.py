"""The settings of one data directory: `reaper.yaml` in it, or the environment."""

import os
from pathlib import Path

from reaper.domain.errors import UsageError

VARIABLE = "REAPER_STORE"
FILE = "reaper.yaml"
_POSTGRES = ("postgresql://", "postgres://")


def store_address(home: Path) -> str | None:
    """The address of the Postgres that holds the state; None: a file in the data directory.

    REAPER_STORE, or `store:` in reaper.yaml. UsageError: it cannot be understood; the address, which may
    hold a password, is not repeated.
    """
    named, where = os.environ.get(VARIABLE), VARIABLE
    if not named:
        named, where = _in_file(home / FILE), f"{home / FILE}: store"
    if named and not named.startswith(_POSTGRES):
        raise UsageError(f"{where} has to be postgresql://USER@HOST:PORT/DATABASE; leave it out to use a file")
    return named or None


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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise UsageError(f"{path}: {faults}. The only setting is `store: postgresql://...`") from error
