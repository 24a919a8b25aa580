"""The JSON Schema of a policy file, for editors that check while one writes."""

from typing import Any

from reaper.adapters.policies.document import Document

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema. What it cannot say, such as whether a cron expression means something, `validate` says."""
    return {"$schema": DIALECT, **Document.model_json_schema(by_alias=True), "title": "reaper policy"}
