"""The model that is served: the version at an address, followed as the registry changes."""

import math
import threading
import time
from dataclasses import dataclass

import numpy as np

from backdrop.common.progress import log
from backdrop.common.retry import RetryPolicy, repeat
from backdrop.inference.batch import keep_networks
from backdrop.inference.ensemble import EnsembleModel, load_ensemble
from backdrop.tracking.client import missing
from backdrop.tracking.registry import find_address, parse_address
from backdrop.tracking.students import outdated
from backdrop.tracking.version_files import fetch

POLICY = RetryPolicy(pause_s=10.0, max_pause_s=30.0)
STALE_S = 60.0  # in a pod, a look waits ten minutes for a server that is away
BLANK = np.zeros((16, 16, 3), np.uint8)  # a photograph that a new version is tried on


@dataclass(frozen=True)
class Served:
    """A loaded version; `address` names it by its number, such as `models:/cars/3`; `digest` is its ensemble's."""

    address: str
    digest: str
    model: EnsembleModel


class Champion:
    """Follows an address such as `models:/cars@champion`.

    The model's history decides which version is the champion, so a version that was rolled back or isn't promoted is
    never served. While the registry is away, or a new version can't be loaded, the current one stays.

    Attributes:
        address: what is followed.
        current: what to predict with; None until the first version is loaded.
        switches: how often another version took over.
        trouble: why the last look at the registry failed; empty if it didn't.
    """

    def __init__(self, address: str) -> None:
        parse_address(address)
        self.address = address
        self.current: Served | None = None
        self.switches = 0
        self.trouble = ""
        self._answered = -math.inf  # when the registry answered last
        self._outdated = ""
        self._closing = threading.Event()

    def start(self) -> None:
        """Follows the address in a thread of its own."""
        threading.Thread(target=repeat, args=(self.look, POLICY, self._closing, self._complain), daemon=True).start()

    def close(self) -> None:
        """Stops following."""
        self._closing.set()

    @property
    def followed(self) -> bool:
        """Whether the registry has answered within the last minute, and with something that could be used."""
        return not self.trouble and time.monotonic() - self._answered < STALE_S

    def look(self) -> None:
        """Loads the version at the address, unless it is loaded already.

        It takes over only after it has predicted a blank photograph; batches under way end with the version before.

        Raises:
            BackdropError: if the registry doesn't answer, has no such version, or its files can't be used.
        """
        try:
            self._look()
        except Exception as error:
            self.trouble = str(error)
            raise
        self.trouble = ""

    def _look(self) -> None:
        version = find_address(self.address)
        self._answered = time.monotonic()
        if version is None:
            raise missing(self.address)
        self._note(outdated(version.name, version.version))
        # A model that was deleted and made again counts its versions from 1 again.
        if self.current and (self.current.address, self.current.digest) == (version.address, version.digest):
            return
        model = keep_networks(load_ensemble(fetch(version)))
        model.mask(BLANK)
        self.switches += self.current is not None
        self.current = Served(version.address, version.digest, model)
        log(f"serving {version.address}")

    def _note(self, outdated: str) -> None:
        """Logs once that a student is out of date."""
        if outdated and outdated != self._outdated:
            log(outdated)
        self._outdated = outdated

    def _complain(self, error: Exception) -> None:
        current = f"still serving {self.current.address}" if self.current else "nothing to serve yet"
        log(f"{error} ({current}; looking again)")
