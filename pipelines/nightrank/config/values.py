"""Types that several sections of the configuration share: paths, shares, amounts with a unit.

An amount's unit is part of its type, so that the reference and the editor's schema show it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from nightrank.process.home import at_home


class Section(BaseModel):
    """A part of the configuration: frozen, strictly typed, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _home_is_known(path: str) -> str:
    at_home(path)
    return path


# A local path or s3:// url. `~` is expanded on the machine that reads the config.
UserPath = Annotated[str, Field(min_length=1), AfterValidator(at_home)]
# Not expanded: the lake stores models by name, and the name must not depend on the machine.
ModelName = Annotated[str, Field(min_length=1), AfterValidator(_home_is_known)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]

# Keywords of JSON Schema of our own: an amount's unit, and how a key enters a plan's identity.
UNIT = "x-unit"
PLAN = "x-plan"
Bytes = Annotated[int, Field(json_schema_extra={UNIT: "bytes"})]
Candidates = Annotated[int, Field(json_schema_extra={UNIT: "candidates per query"})]
Documents = Annotated[int, Field(json_schema_extra={UNIT: "documents"})]
Dollars = Annotated[float, Field(json_schema_extra={UNIT: "US dollars"})]
Runs = Annotated[int, Field(json_schema_extra={UNIT: "runs"})]
Seconds = Annotated[float, Field(json_schema_extra={UNIT: "seconds"})]
Tokens = Annotated[int, Field(json_schema_extra={UNIT: "tokens"})]
