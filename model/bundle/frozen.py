"""What every document of a bundle is: immutable, and of known fields only."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


class Frozen(BaseModel):
    """Immutable, no NaN or infinity, and no unknown keys: a misspelt or a newer field is never silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
