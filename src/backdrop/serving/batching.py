"""Predicts photographs of concurrent requests together, in bounded memory."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from backdrop.common.errors import BackdropError, DataError
from backdrop.data.formats import decode_photo
from backdrop.inference.batch import PIXELS, Image
from backdrop.inference.compose import Pictures
from backdrop.inference.ensemble import EnsembleModel, Photograph
from backdrop.inference.predict import BATCH
from backdrop.inference.uncertainty import Box, DiceRange, uncertain_regions, unconfidence
from backdrop.serving.champion import Champion
from backdrop.serving.problems import not_ready

WORKERS = 2  # one decodes and encodes while the other's networks run


@dataclass(frozen=True)
class Picture:
    """An encoded picture, the address of the version that made it, how doubtful the photograph is, and its Dice.

    `dice` is None if the version can't tell.
    """

    data: bytes
    model: str
    unconfidence: float
    regions: Sequence[Box]
    dice: DiceRange | None


@dataclass(eq=False)
class Job:
    """A photograph to predict: a file of `pixels` pixels, the picture to draw of it, and who waits for that."""

    data: bytes
    pixels: int
    pictures: Pictures
    result: Future[Picture] = field(default_factory=Future)


class Batcher:
    """Takes jobs from a queue, as many at a time as networks see together.

    Its memory is bounded: at most two batches are decoded at once, each of four photographs that have together as many
    pixels as `backdrop predict` holds, or of one larger photograph. Files that wait are as they came.

    Args:
        champion: the model.
        observe: called with the number of photographs of each batch.
    """

    def __init__(self, champion: Champion, observe: Callable[[int], None]) -> None:
        self._champion, self._observe = champion, observe
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._networks = threading.Lock()
        self._threads = ThreadPoolExecutor(BATCH, "pictures")
        self._closing = False

    def start(self) -> None:
        """Starts its threads."""
        for _ in range(WORKERS):
            threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """Ends its threads; whoever waits has been answered."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._threads.shutdown(wait=False)

    def submit(self, job: Job) -> "Future[Picture]":
        """Queues a job; a cancelled one is skipped if it hasn't begun."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return job.result

    def _run(self) -> None:
        while jobs := self._take():
            try:
                self._predict([job for job in jobs if job.result.set_running_or_notify_cancel()])
            except Exception as error:  # an error of ours for all: each request answers it
                for job in jobs:
                    if not job.result.done():
                        job.result.set_exception(error)

    def _take(self) -> list[Job]:
        """The jobs of the next batch; none when it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            jobs: list[Job] = []
            while self._jobs and len(jobs) < BATCH:
                if jobs and sum(job.pixels for job in (*jobs, self._jobs[0])) > PIXELS:
                    break
                jobs.append(self._jobs.popleft())
            if self._jobs:
                self._changed.notify()
            return jobs

    def _predict(self, jobs: list[Job]) -> None:
        served = self._champion.current
        if served is None:
            raise not_ready(self._champion.address)
        model = served.model
        decoded = list(self._threads.map(lambda job: _decode(job, model), jobs))
        usable = [(job, *photo) for job, photo in zip(jobs, decoded, strict=True) if photo]
        if not usable:
            return
        self._observe(len(usable))
        with self._networks:
            outcomes = list(model.outcomes([photo for _, _, photo in usable], with_probability=True))

        def draw(index: int) -> Picture:
            job, image, _ = usable[index]
            outcome = outcomes[index]
            assert outcome.probability is not None
            mask = model.cut(outcome, "")
            data = job.pictures.draw(image, outcome.probability, mask)
            doubt = unconfidence(outcome.probability), uncertain_regions(outcome.probability)
            return Picture(data, served.address, *doubt, model.predict_dice(outcome, mask))

        def finish(index: int) -> None:
            result = usable[index][0].result
            try:
                result.set_result(draw(index))
            except DataError as error:
                result.set_exception(DataError(f"The picture {error.what}", error.remedy))
            except Exception as error:  # an error of ours, of this photograph alone
                result.set_exception(error)

        list(self._threads.map(finish, range(len(usable))))


def _decode(job: Job, model: EnsembleModel) -> tuple[Image, Photograph] | None:
    """The photograph and what the networks need of it; None if it can't be used, which its request answers."""
    try:
        image = decode_photo(job.data, "The photograph")
        return image, model.prepare(image)
    except BackdropError as error:
        job.result.set_exception(error)
        return None
