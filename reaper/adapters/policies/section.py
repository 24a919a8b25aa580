"""What all parts of a policy file's form share, and the external checks."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reaper.adapters.policies.values import Name, Span, Text, Texts

Url = Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$", max_length=2000)]  # no password in it


class Section(BaseModel):
    """A mapping with known keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class PrometheusSection(Section):
    """Every sample of a query has to be below or above a threshold."""

    kind: Literal["prometheus"]
    name: Name
    url: Url
    query: Text
    """{cluster} in it stands for the cluster's name."""
    below: float | None = None
    above: float | None = None
    within: Span = Field(default="10s", validate_default=True)

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if (self.below is None) == (self.above is None):
            raise ValueError("say either below or above")
        return self


class CloudwatchSection(Section):
    """A CloudWatch alarm has to be OK."""

    kind: Literal["cloudwatch"]
    name: Name
    alarm: Text
    region: Name | None = None
    within: Span = Field(default="10s", validate_default=True)


class HttpSection(Section):
    """An address has to answer with a status."""

    kind: Literal["http"]
    name: Name
    url: Url
    status: Annotated[int, Field(ge=100, le=599)] = 200
    within: Span = Field(default="10s", validate_default=True)


class ScriptSection(Section):
    """A program has to end with status 0."""

    kind: Literal["script"]
    name: Name
    command: Texts
    """The program and its arguments; no shell reads them."""
    within: Span = Field(default="10s", validate_default=True)


CheckSection = Annotated[
    PrometheusSection | CloudwatchSection | HttpSection | ScriptSection, Field(discriminator="kind")
]
