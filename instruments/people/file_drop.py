"""Software that reads and writes files as instrument: vendor programs, batch scripts, other orchestrators.

::

    use: file_drop
    options:
      folder: /mnt/robot
      capability: synthesise
      parameters: {temperature: {unit: degC, min: 20, max: 200}}
      outputs: {yield: percent}
      settle_s: 2

An order appears in ``outbox/KEY.csv`` (or .json), the result is awaited in ``inbox/KEY.csv`` or ``.json``; the module
`drop_folder` has the rules. It is the operator's desk with another program in the person's place, and the two share
their code: the folder is found again after a crash, recovery class *queryable*. Folders are polled, since file events
do not come over network shares.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from instruments.people.drop_folder import DropFolder, Format, Habits
from instruments.people.operator import DeskInstrument, OperatorOptions
from orchestrator.domain import Running, Unsure, Whereabouts
from orchestrator.protocols import InputPath


class FileDropOptions(OperatorOptions):
    """What the other program is asked, and how it handles files."""

    folder: InputPath = Field(description="shared with the other program; outbox, inbox and the others lie in it")
    format: Format = Field(default="csv", description="of orders; results may be csv or json")
    settle_s: float = Field(default=2.0, gt=0, description="a file whose size stands still so long is taken for whole")
    patience_s: float = Field(default=60.0, gt=0, description="one that is not whole after so long is refused")
    done: str = Field(default="", pattern=r"^(\.[A-Za-z0-9]+)?$", description="ending of a marker, such as .done")
    attach: tuple[str, ...] = Field(default=(), description="endings of files that come with each result, such as .xy")
    moves: bool = Field(
        default=True, description="it takes an order by moving it; so one left in the outbox never began"
    )
    who: str = Field(default="file drop", min_length=1, description="who measures, where results name nobody")


class FileDrop(DeskInstrument):
    """Lay orders down as files, and wait for result files.

    Args:
        options: outputs, parameters, the folder and the habits of the other program.
    """

    Options: ClassVar[type[BaseModel]] = FileDropOptions
    who: ClassVar[str] = "file drop"

    def __init__(self, options: FileDropOptions) -> None:
        super().__init__(options)
        habits = Habits(
            options.format, options.settle_s, options.patience_s, options.done, options.attach, options.moves
        )
        self.drop = DropFolder(options.folder, habits, options.who)
        self.desk = self.drop

    def _whereabouts(self, key: str) -> Whereabouts:
        where = super()._whereabouts(key)
        if isinstance(where, Running) and not self.drop.on_its_way(key):
            return Unsure(f"the order {key} may never have been laid down in {self.folder}; look there")
        return where
