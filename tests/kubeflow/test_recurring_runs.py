"""Exactly one schedule of a name, whatever happens on the way."""

import dataclasses
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.common.errors import EndpointError
from backdrop.kubeflow import client, recurring_runs
from backdrop.kubeflow.client import Endpoint, connect
from backdrop.kubeflow.publish import Published
from backdrop.kubeflow.recurring_runs import ROUNDS, RecurringRun, ours, reconcile, remove
from tests.fakes.kfp import FakeKfp, Refused, serving

NAME = "nightly"


def wish(kfp: FakeKfp, version: str = "v1", **changes: object) -> RecurringRun:
    """A schedule of a version, which is brought to the endpoint if need be."""
    versions = [entry for entry in kfp.versions.values() if entry["display_name"] == version]
    entry = versions[0] if versions else kfp.add(kfp.versions, "pipeline_version_id", {"display_name": version})
    published = Published("backdrop-demo", version, "the-pipeline", entry["pipeline_version_id"], new=not versions)
    experiment = next(iter(kfp.experiments))
    wanted = RecurringRun(NAME, "0 0 3 * * 0", published, experiment, {"data": "s3://photos/cars"})
    return dataclasses.replace(wanted, **changes)  # type: ignore[arg-type]  # its fields


def held(kfp: FakeKfp) -> list[tuple[str, str]]:
    """Version and mode of every schedule."""
    return [
        (kfp.versions[entry["pipeline_version_reference"]["pipeline_version_id"]]["display_name"], entry["mode"])
        for entry in kfp.schedules.values()
    ]


def test_created_then_unchanged_then_replaced(kfp: FakeKfp, host: str) -> None:
    endpoint = connect()
    assert reconcile(endpoint, wish(kfp)) == "created"
    (first,) = kfp.schedules.values()
    assert first["no_catchup"] is True
    assert first["max_concurrency"] == 1
    assert first["runtime_config"]["parameters"] == {"data": "s3://photos/cars"}
    assert first["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 0"
    kfp.calls.clear()
    assert reconcile(endpoint, wish(kfp)) == "unchanged"
    assert kfp.calls == ["GET recurringruns"]
    assert reconcile(endpoint, wish(kfp, "v2")) == "replaced"
    assert held(kfp) == [("v2", "ENABLE")]
    # Without that policy Kubernetes would stop the training that runs just now.
    assert kfp.deleted == [(first["recurring_run_id"], "ORPHAN")]


@pytest.mark.parametrize(
    "change",
    [
        {"cron": "0 0 4 * * 0"},
        {"values": {"data": "s3://photos/vans"}},
        {"service_account": "trainer"},
        {"paused": True},
        {"experiment_id": "another"},
    ],
)
def test_whatever_changes_replaces_it(change: dict[str, object], kfp: FakeKfp, host: str) -> None:
    kfp.experiments["another"] = {"experiment_id": "another", "display_name": "another"}
    reconcile(connect(), wish(kfp))
    assert reconcile(connect(), wish(kfp, **change)) == "replaced"
    assert len(kfp.schedules) == 1
    assert reconcile(connect(), wish(kfp, **change)) == "unchanged"


def test_the_new_one_is_there_before_the_old_one_goes(kfp: FakeKfp, host: str) -> None:
    reconcile(connect(), wish(kfp))
    kfp.calls.clear()
    reconcile(connect(), wish(kfp, "v2"))
    changes = [what.split()[0] for what in kfp.calls if not what.startswith("GET")]
    assert changes == ["POST", "DELETE"]


def test_a_manual_pause_is_undone_by_the_next_reconcile(kfp: FakeKfp, host: str) -> None:
    reconcile(connect(), wish(kfp))
    next(iter(kfp.schedules.values()))["mode"] = "DISABLE"
    assert reconcile(connect(), wish(kfp)) == "replaced"
    assert held(kfp) == [("v1", "ENABLE")]


def test_duplicates_go_and_others_stay(kfp: FakeKfp, host: str) -> None:
    reconcile(connect(), wish(kfp))
    (entry,) = kfp.schedules.values()
    for _ in range(4):
        kfp.add(kfp.schedules, "recurring_run_id", entry)
    reconcile(connect(), wish(kfp, name="Nightly"))  # the server's filter takes it for the same
    assert reconcile(connect(), wish(kfp)) == "unchanged"
    assert sorted(entry["display_name"] for entry in kfp.schedules.values()) == ["Nightly", NAME]


def test_somebody_elses_is_left_alone(kfp: FakeKfp, host: str) -> None:
    reconcile(connect(), wish(kfp))
    kfp.add(kfp.schedules, "recurring_run_id", {"display_name": NAME, "description": "mine", "mode": "ENABLE"})
    for act in (lambda: reconcile(connect(), wish(kfp, "v2")), lambda: remove(connect(), NAME)):
        with pytest.raises(EndpointError, match=r"run nightly exists, but isn't Backdrop's\. Use another --name"):
            act()
    assert len(kfp.schedules) == 2
    assert len(ours(connect())) == 1


def test_remove(kfp: FakeKfp, host: str) -> None:
    reconcile(connect(), wish(kfp))
    assert [remove(connect(), NAME), remove(connect(), NAME)] == [1, 0]
    assert kfp.schedules == {}


def test_one_that_is_deleted_meanwhile_is_deleted(kfp: FakeKfp, host: str) -> None:
    reconcile(connect(), wish(kfp))

    def quicker(_who: str, what: str) -> None:
        if what.startswith("DELETE"):
            kfp.schedules.clear()

    kfp.before = quicker
    assert remove(connect(), NAME) == 1


def test_two_who_never_agree_end(kfp: FakeKfp, host: str) -> None:
    reconcile(connect(), wish(kfp))

    def undone(_who: str, what: str) -> None:
        if what.startswith("POST"):
            kfp.schedules.clear()

    kfp.after = undone
    with pytest.raises(EndpointError, match="Another client keeps changing the recurring run"):
        reconcile(connect(), wish(kfp, "v2"))
    assert kfp.calls.count("POST recurringruns") == 1 + ROUNDS


def test_namespaces_have_schedules_of_their_own() -> None:
    kfp = FakeKfp(many_users=True)
    with serving(kfp) as host:
        for space in ("ml", "team"):
            experiment = kfp.add(kfp.experiments, "experiment_id", {"display_name": "Default", "namespace": space})
            wanted = wish(kfp, experiment_id=experiment["experiment_id"])
            assert reconcile(connect(host, space), wanted) == "created"
        assert sorted(entry["namespace"] for entry in kfp.schedules.values()) == ["ml", "team"]
        assert remove(connect(host, "ml"), NAME) == 1
        assert [entry["namespace"] for entry in kfp.schedules.values()] == ["team"]


class Turns:
    """Lets the reconcilers of some names ask one after another, in an order that is given."""

    def __init__(self, names: str, order: str) -> None:
        self.here = set(names)
        self.order = [*order, *names * 10 * ROUNDS]
        self.changed = threading.Condition()

    def wait(self, who: str, _what: str) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.next_one() == who)
            self.order.pop(0)
            self.changed.notify_all()

    def next_one(self) -> str:
        while self.order[0] not in self.here:
            self.order.pop(0)
        return self.order[0]

    def leave(self, who: str) -> None:
        with self.changed:
            self.here.discard(who)
            self.changed.notify_all()


class Deaths:
    """Hangs up on a reconciler from its n-th call on: before that is done, or when it is done and not answered."""

    def __init__(self, doomed: dict[str, tuple[int, bool]]) -> None:
        self.doomed = doomed
        self.count = dict.fromkeys(doomed, 0)

    def before(self, who: str, _what: str) -> None:
        if who in self.doomed:
            self.count[who] += 1
            at, late = self.doomed[who]
            if self.count[who] > at or (self.count[who] == at and not late):
                raise Refused(None)

    def after(self, who: str, _what: str) -> None:
        if who in self.doomed and self.count[who] == self.doomed[who][0]:
            raise Refused(None)


def as_user(host: str, who: str) -> Endpoint:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(client.TOKEN, who)
        return connect(host)


def together(kfp: FakeKfp, host: str, wanted: dict[str, RecurringRun], order: str, deaths: Deaths) -> None:
    """Reconciles of several at the same time; those that die end with an error."""
    users = {who: as_user(host, who) for who in wanted}
    turns = Turns("".join(wanted), order)

    def before(who: str, what: str) -> None:
        if who in wanted:
            turns.wait(who, what)
        deaths.before(who, what)

    def run(who: str) -> None:
        try:
            reconcile(users[who], wanted[who])
        except EndpointError:
            pass
        finally:
            turns.leave(who)

    kfp.before, kfp.after = before, deaths.after
    threads = [threading.Thread(target=run, args=(who,)) for who in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kfp.before = kfp.after = lambda _who, _what: None


LEFTOVERS = st.lists(st.sampled_from(["v1", "v2", "v3"]), max_size=3)
DEATHS = st.dictionaries(st.sampled_from("AB"), st.tuples(st.integers(1, 6), st.booleans()))


@settings(max_examples=50)
@given(
    left=LEFTOVERS,
    wishes=st.tuples(*[st.sampled_from(["v1", "v2"])] * 2),
    order=st.text("AB", max_size=30),
    doomed=DEATHS,
    last=st.sampled_from(["v1", "v2", "v3"]),
)
def test_whatever_happened_the_next_reconcile_leaves_exactly_one(
    left: list[str], wishes: tuple[str, str], order: str, doomed: dict[str, tuple[int, bool]], last: str
) -> None:
    kfp = FakeKfp()
    with serving(kfp) as host:
        calm = connect(host)
        for version in left:  # what reconciles that were killed have left
            with calm.errors():
                recurring_runs._create(calm, wish(kfp, version))
        wanted = {who: wish(kfp, version) for who, version in zip("AB", wishes, strict=True)}
        together(kfp, host, wanted, order, Deaths(doomed))
        if not doomed and len(set(wishes)) == 1:
            assert held(kfp) == [(wishes[0], "ENABLE")]  # two of one mind need no third
        reconcile(calm, wish(kfp, last))
        assert held(kfp) == [(last, "ENABLE")]
        kfp.calls.clear()
        assert reconcile(calm, wish(kfp, last)) == "unchanged"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(1, 6))
def test_a_kill_never_leaves_none_where_there_was_one(at: int, late: bool, kfp: FakeKfp, host: str) -> None:
    reconcile(connect(), wish(kfp))
    together(kfp, host, {"A": wish(kfp, "v2")}, "", Deaths({"A": (at, late)}))
    assert 1 <= len(kfp.schedules) <= 2
    reconcile(connect(), wish(kfp, "v2"))
    assert held(kfp) == [("v2", "ENABLE")]
