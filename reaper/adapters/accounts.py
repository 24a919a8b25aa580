"""An account of a lab's servers, as the book of a lab keeps it."""

from pydantic import BaseModel, ConfigDict, SecretStr, field_serializer

from reaper.workflow.engine import Login


class AccountRecord(BaseModel):
    """An account; the file that holds it is readable by its owner only."""

    model_config = ConfigDict(extra="forbid")

    user: str
    password: SecretStr

    @field_serializer("password", when_used="json")
    def _plain(self, value: SecretStr) -> str:
        return value.get_secret_value()

    def login(self) -> Login:
        """As the engine wants it."""
        return Login(self.user, self.password.get_secret_value())
