"""Population Based Bandits as Ray has them, made to go on after a kill and to come to the same exchanges again."""

import random
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.schedulers.pb2 import PB2

from backdrop.tuning.lineage import AGE, EXPONENT, stretch
from backdrop.tuning.trial import DICE


def place(trial: RayTrial) -> int:
    """A trial's number in its population."""
    return int(trial.trial_id.rpartition("_")[2])


class Bandits(PB2):
    """Exchanges weights once all trials are of the same age, so that few slots do for many trials.

    Source: Parker-Holder et al. 2020, arXiv:2002.02518.

    Args:
        low: the least exponent of a rate.
        high: the greatest.
        epochs: of the budget.
        seed: of what is drawn.
        resources: a trial's, which may be others than before a kill.
    """

    data: Any  # what PB2 learns from

    def __init__(self, low: float, high: float, epochs: int, seed: int, resources: dict[str, float]) -> None:
        super().__init__(
            time_attr=AGE,
            perturbation_interval=stretch(epochs),
            hyperparam_bounds={EXPONENT: [low, high]},
            log_config=False,
            synch=True,
        )
        self.ends, self.epochs, self.seed, self.resources = (low, high), epochs, seed, resources

    def on_trial_add(self, tune_controller: Any, trial: RayTrial) -> None:
        """A trial begins, or begins anew at its checkpoint: untrained weights have a Dice of 0.

        Ray keeps nothing of its scheduler, and without a first point no gain could be learned from the first stretch.
        """
        restored = trial not in self._trial_state and trial.status == RayTrial.PENDING
        super().on_trial_add(tune_controller, trial)
        known = trial.latest_checkpoint_result
        result = known.metrics if known and known.metrics else {AGE: 0, DICE: 0.0}
        age, dice = result[AGE], result[DICE]
        state = self._trial_state[trial]
        state.last_train_time = state.last_perturbation_time = age
        state.last_score, state.last_result = dice, result  # a copy made before it tells again has them too
        point = {"Trial": [str(trial)], "Time": [age], EXPONENT: [trial.config[EXPONENT]], "Reward": [dice]}
        self.data = pd.concat([self.data, pd.DataFrame(point)]) if len(self.data) else pd.DataFrame(point)
        self._meet()
        if known and restored:  # it waits for those behind it, as it did before the kill
            trial.update_resources(self.resources)
            trial.set_status(RayTrial.PAUSED)

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: Mapping[str, Any]) -> str:
        """Whether a trial goes on or waits; after the last stretch there is nothing to wait for."""
        if result[AGE] >= self.epochs:
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_error(self, tune_controller: Any, trial: RayTrial) -> None:
        """The others don't wait for a trial that died; one that is tried again is added again."""
        super().on_trial_error(tune_controller, trial)
        self._meet(without=trial)

    def _meet(self, without: RayTrial | None = None) -> None:
        """The next exchange is a stretch after the age that all trials have."""
        live = {trial: state for trial, state in self._trial_state.items() if not trial.is_finished()}
        if ages := [state.last_train_time for trial, state in live.items() if trial is not without]:
            self._next_perturbation_sync = min(ages) + self._perturbation_interval

    def _checkpoint_or_exploit(self, trial: RayTrial, *rest: Any) -> None:
        """What Ray draws depends on seed, trial and age alone."""
        seed = np.random.SeedSequence([self.seed, place(trial), self._next_perturbation_sync]).generate_state(1)[0]
        random.seed(int(seed))
        np.random.seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a fit that found no optimum: any guess will do
            super()._checkpoint_or_exploit(trial, *rest)

    def _get_new_config(self, trial: RayTrial, trial_to_clone: RayTrial) -> Any:
        """A rate from anywhere where PB2's model can't be fitted, as when two trials came to exactly the same."""
        try:
            return super()._get_new_config(trial, trial_to_clone)
        except (ValueError, np.linalg.LinAlgError):
            return {**trial_to_clone.config, EXPONENT: float(np.random.uniform(*self.ends))}, {}
