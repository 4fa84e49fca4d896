"""What a scenario of the lab is: a name, one line, and the steps it is made of."""

from dataclasses import dataclass

from docs.lab.layout import MANAGERS
from docs.lab.steps.step import Step


@dataclass(frozen=True, slots=True)
class Scenario:
    """One guided story. Its page is `docs/tutorial/<page>.md`."""

    name: str
    summary: str
    """One line for `--list`."""
    steps: tuple[Step, ...]
    managers: tuple[str, ...] = MANAGERS
    """Who founds the cluster; one manager starts faster, where nothing depends on their number."""
    init_options: tuple[str, ...] = ()
    """What `strongroom init` is told beside what it needs."""
    cast: str = ""
    """Who plays, where it is not managers, agents, services and a third party."""
    page: str = ""
    """Another name than the scenario's, if it has one."""

    @property
    def tutorial(self) -> str:
        """Return the path of its page, from the checkout."""
        return f"docs/tutorial/{self.page or self.name}.md"
