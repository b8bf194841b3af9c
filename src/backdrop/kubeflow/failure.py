"""Finds out which task of a failed run failed, and why."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kfp_server_api import ApiException
from urllib3.exceptions import HTTPError

from backdrop.common.errors import last_error, shorten
from backdrop.kubeflow.client import TIMEOUT_S, Endpoint

LOG = "/apis/v1alpha1/runs/{run_id}/nodes/{node_id}/log"
TAIL = 100  # lines of a log; the error is in its last ones
ATTEMPT = re.compile(r"\(\d+\)$")
NODE_NUMBER, TEMPLATE = re.compile(r"(-\d+)$"), r"-system-container-impl\1"
POD = "executor"  # KFP's name for a task's pod, inside the node that is named after the task


@dataclass(frozen=True)
class Failure:
    """A task that failed, by its name within its sub-pipelines, and why.

    `own` says whether the reason is the error in its log: a task without one lost its pod before it could write it. It
    is None if Kubeflow denies the log, so that nobody knows.
    """

    task: str
    reason: str
    own: bool | None

    def __str__(self) -> str:
        return f"{self.task}: {self.reason}"


def failures(endpoint: Endpoint, run_id: str) -> list[Failure]:
    """The tasks of a run that failed."""
    with endpoint.errors():
        details = endpoint.client.get_run(run_id).run_details
        tasks = (details.task_details if details else None) or []
        parents = dict(_parents(tasks))
        failed = [task for task in tasks if task.state == "FAILED"]
        inner = {id(parents[task.task_id]) for task in failed if task.task_id in parents}
        found = [_failure(endpoint, run_id, task, parents) for task in failed if id(task) not in inner]
    return list({failure.task: failure for failure in found}.values())  # of a task's attempts, the last


def _parents(tasks: list[Any]) -> Iterator[tuple[str, Any]]:
    """The parent of each task, by the task's id. Versions of KFP differ in which of the two names the other."""
    by_id = {task.task_id: task for task in tasks}
    by_pod = {task.pod_name: task for task in tasks if task.pod_name}
    for task in tasks:
        if task.parent_task_id in by_id:
            yield task.task_id, by_id[task.parent_task_id]
        for child in task.child_tasks or []:
            found = by_id.get(child.task_id) or by_pod.get(child.pod_name)
            if found is not None:
                yield found.task_id, task


def _name(task: Any, parents: dict[str, Any]) -> str:
    names: list[str] = []
    node = task
    while node is not None:
        name = ATTEMPT.sub("", node.display_name or "")
        parent = parents.get(node.task_id)
        if name != POD and name not in names[-1:] and (parent is not None or not names):
            names.append(name)
        node = parent
    return "/".join(reversed(names)) or POD


def _failure(endpoint: Endpoint, run_id: str, task: Any, parents: dict[str, Any]) -> Failure:
    """With the error in the task's log, or else what Kubeflow says about it."""
    error, denied = "", False
    for name in _log_names(task):
        log = _log(endpoint, run_id, name)
        error, denied = last_error(log or []), denied or log is None
        if error:
            break
    said = [task.error, *(state.error for state in reversed(task.state_history or []))]
    reason = error or next((one.message for one in said if one), "") or "see its log"
    return Failure(_name(task, parents), shorten(reason), None if denied and not error else bool(error))


def _log_names(task: Any) -> list[str]:
    """What a task's log may be known by: its node's id where logs are archived, else the pod's name.

    Argo makes the one of the other by putting in the template's name.
    """
    known = [name for name in (task.pod_name, task.task_id) if name]
    return list(dict.fromkeys(form for name in known for form in (name, NODE_NUMBER.sub(TEMPLATE, name))))


def _log(endpoint: Endpoint, run_id: str, node_id: str) -> list[str] | None:
    """The last lines of a task's log, none where logs of pods that are gone aren't kept; None if Kubeflow denies it."""
    api = endpoint.client._run_api.api_client
    path = {"run_id": run_id, "node_id": node_id}
    options = {"auth_settings": ["Bearer"], "_preload_content": False, "_return_http_data_only": True}
    try:
        answer = api.call_api(LOG, "GET", path, _request_timeout=TIMEOUT_S, **options)
    except ApiException as error:
        return None if error.status in (401, 403) else []
    except HTTPError:
        return []
    rest, lines = b"", deque[str](maxlen=TAIL)
    for chunk in answer.stream():
        *whole, rest = (rest + chunk).split(b"\n")
        lines.extend(line.decode("utf-8", "replace").rstrip() for line in whole)
    return [*lines, rest.decode("utf-8", "replace")]
