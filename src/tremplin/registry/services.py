"""Which version answers for which task: the registry's list of services."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tremplin.errors import RegistryError
from tremplin.registry.files import write_atomically
from tremplin.registry.task import Task


@dataclass(frozen=True)
class Service:
    """A task served under a name by one version."""

    name: str
    task: Task
    version: str
    """``model@version``"""

    @property
    def model(self) -> str:
        """The model it is a version of."""
        return self.version.partition("@")[0]


_SERVICES = TypeAdapter(list[Service])


def read_services(file: Path) -> list[Service]:
    """Return the services in a file; empty when there is none. Raises RegistryError when it is damaged."""
    try:
        return _SERVICES.validate_json(file.read_bytes())
    except FileNotFoundError:
        return []
    except ValidationError as error:
        raise RegistryError(
            f"{file} cannot be read ({error.error_count()} errors). Delete it; `tremplin up` writes it again."
        ) from None


def write_services(file: Path, services: list[Service]) -> None:
    """Replace the list of services, all at once."""
    write_atomically(file, _SERVICES.dump_json(services, indent=1))
