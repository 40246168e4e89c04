"""How far a chain is: one file, written anew after every stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqformer.config import config_to_dict
from seqformer.files import write_json
from seqformer.trainer.chain_stages import Stage, TrainingStage
from seqformer.trainer.run_folder import differing_settings

STATE_NAME = "chain.json"
_FORMAT = 1


@dataclass(frozen=True)
class ChainState:
    """What chain.json says.

    Attributes:
        settings: of every stage by name.
        finished: names of stages, in order.
    """

    settings: dict[str, dict[str, Any]]
    finished: tuple[str, ...] = ()

    @classmethod
    def of(cls, stages: list[Stage]) -> ChainState:
        """Of a chain that begins."""
        return cls({stage.name: _settings(stage) for stage in stages})

    @classmethod
    def read(cls, output: Path) -> ChainState | None:
        """The state of the chain in a folder; None where there is none.

        Raises: ValueError naming the file when it is damaged.
        """
        path = output / STATE_NAME
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_bytes())
            settings, finished = content["settings"], content["finished"]
            if content["format"] == _FORMAT and set(finished) <= settings.keys():
                return cls({name: dict(one) for name, one in settings.items()}, tuple(finished))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        raise ValueError(
            f"{path} is damaged or of another version; its stages are in their folders. Delete the "
            "file to have each of them looked at again, or choose another --output"
        )

    def write(self, output: Path) -> None:
        """Atomically. Raises: WriteError."""
        content = {"format": _FORMAT, "finished": self.finished, "settings": self.settings}
        write_json(output / STATE_NAME, content)

    def check(self, stages: list[Stage], output: Path) -> None:
        """Refuse to go on with other stages than those that were begun.

        Raises: ValueError naming what differs.
        """
        if list(self.settings) != [stage.name for stage in stages]:
            raise ValueError(
                f"{output} holds a chain of other stages ({', '.join(self.settings)}); choose "
                "another --output"
            )
        differing = []
        for stage in stages:
            saved = self.settings[stage.name]
            if isinstance(stage, TrainingStage):
                kept = ("max_steps", "epochs") if stage.name in self.finished else ()
                found = differing_settings(stage.config, saved, kept)
            else:
                found = [] if saved == _settings(stage) else [f"{saved} is now {stage.settings}"]
            differing += [f"{stage.name}: {one}" for one in found]
        if differing:
            raise ValueError(
                f"{output} holds a chain with other settings: {'; '.join(differing)}. Go on with "
                "the old settings, or choose another --output"
            )


def _settings(stage: Stage) -> dict[str, Any]:
    """As they are after a way through JSON."""
    if isinstance(stage, TrainingStage):
        return json.loads(json.dumps(config_to_dict(stage.config)))
    return json.loads(json.dumps(stage.settings))
