"""Settings of pods on Kubernetes: environment, service account, and placement on GPU nodes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from backdrop.config.network import MIRROR, Count
from backdrop.config.quantity import Quantity, Size
from backdrop.config.records import Record

PIPELINE = "backdrop-"  # before the ensemble's name, in a pipeline's
# An optional ConfigMap and an optional Secret of this name set the pods' environment.
SETTINGS = "backdrop"
CONFIG_KEYS = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"),
    MIRROR,
)
SECRET_KEYS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
# Kubeflow's launcher runs in a task's container and reads AWS_… for Kubeflow's own store, so there ours have a prefix.
TASK_PREFIX = "BACKDROP_"
# In the same Secret, but for the pipeline's tasks only: no other pod decides anything.
WEBHOOK_KEYS = ("BACKDROP_WEBHOOK_URL", "BACKDROP_WEBHOOK_SECRET")
# An optional ConfigMap of yours, for company networks: these keys set the pods' environment, and each key is a file in
# the folder, so that a bundle of certificates can be one.
NETWORK, NETWORK_FOLDER = "backdrop-network", "/etc/backdrop/network"
NETWORK_KEYS = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE")
# Further keys of the Secret, for the tasks that sign versions and those that use them.
SIGNING_KEY, TRUSTED_KEY = "BACKDROP_SIGNING_KEY", "BACKDROP_TRUSTED_KEY"
# A pod's default of 64 MiB is too small for data loader workers.
SHARED_MEMORY, SHARED_MEMORY_SIZE = "/dev/shm", "8Gi"  # noqa: S108  # not a temporary file
# Where a volume of yours is mounted, so that a dataset or work can be in it.
VOLUME_FOLDER = "/mnt/backdrop"
RETRIES = 2
# Of a task that runs no network: `register` was measured at 440 MB, `check` at 350 MB for each process.
LIGHT_CPU, LIGHT_MEMORY = "500m", "2Gi"
LIGHT_CPU_LIMIT = "2"  # `check` reads all photographs; four times the request is what the chart's Jobs have, too

# What Kubernetes takes as a label's or a taint's key and value.
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def label_fault(labels: Mapping[Any, Any]) -> tuple[str, str] | None:
    """What Kubernetes, hours later, wouldn't take of labels, and the remedy; None if it takes all."""
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(str(key)):
            return f"{key!r} isn't a label's key", "Write it as nvidia.com/gpu.present"
        if not isinstance(value, str):
            return f"{key} is {value!r}, not text", f'Put it in quotes: "{str(value).lower()}"'
        if not LABEL_VALUE.fullmatch(value):
            return f"{key} is {value!r}", "A label's value has letters, digits and -_. between them, at most 63"
    return None


def _labels(value: Any) -> Any:
    if isinstance(value, dict) and (fault := label_fault(value)):
        raise ValueError("; ".join(fault))
    return value


Labels = Annotated[dict[str, str], BeforeValidator(_labels)]
NODE_SELECTOR = {"nvidia.com/gpu.present": "true"}
TOLERATIONS = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


@dataclass(frozen=True)
class Pods:
    """Settings of a package's pods that KFP takes only when compiling.

    Attributes:
        labels: of every task's pod, such as Kueue's `kueue.x-k8s.io/queue-name`.
        retries: how often Argo tries a task on the GPU nodes again.
        volume: a claim that is mounted in every task's pod; none if empty.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    retries: int = RETRIES
    volume: str = ""

    def settings(self) -> dict[str, Any]:
        """What the package says of each executor, as KFP writes it."""
        labeled = {"podMetadata": {"labels": dict(self.labels)}} if self.labels else {}
        claim = {"constant": self.volume, "pvcNameParameter": {"runtimeValue": {"constant": self.volume}}}
        return labeled | ({"pvcMount": [{**claim, "mountPath": VOLUME_FOLDER}]} if self.volume else {})


PODS = Pods()


class Toleration(Record):
    """A pod's toleration of node taints; Kubernetes checks its rules only when it creates a pod."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    seconds: int | None = Field(default=None, alias="tolerationSeconds")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.key and not LABEL_KEY.fullmatch(self.key):
            raise ValueError(f"{self.key!r} isn't a taint's key; write it as nvidia.com/gpu")
        if not LABEL_VALUE.fullmatch(self.value):
            raise ValueError(
                f"{self.value!r} isn't a taint's value; use at most 63 letters, digits and -_. between them"
            )
        if self.operator == "Exists" and self.value:
            raise ValueError(f"operator Exists takes no value, but it is {self.value}; leave out one of the two")
        if self.operator == "Equal" and not self.key:
            raise ValueError("operator Equal, the default, needs a key; add it, or operator: Exists for all taints")
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds is of the effect NoExecute only; leave it out, or write that effect")
        return self

    def covers(self, taint: Any) -> bool:
        """Whether it tolerates a node's taint, by the rules of Kubernetes' scheduler."""
        if self.effect not in ("", taint.effect) or self.key not in ("", taint.key):
            return False
        return self.operator == "Exists" or self.value == (taint.value or "")


class Cluster(Record):
    """A Ray cluster that KubeRay creates for one job: a head without GPU, and workers on GPU nodes.

    Attributes:
        image: image of all pods, with Backdrop's extra `tuning` and the Ray version installed here.
        namespace: empty for the namespace of the current pod or of the kubeconfig's context.
        workers: number of worker pods.
        accelerator: resource name of the GPUs.
        gpus: GPUs per worker; 0 for none.
        cpu: CPU cores that each worker requests, and its limit, such as 4 or 300m.
        memory: memory that each worker requests, and its limit, /dev/shm included.
        storage: disk that each pod requests and may fill, for its copy of the dataset; empty to leave it open.
        node_selector: labels of the workers' nodes.
        tolerations: tolerations of the workers.
        affinity: affinity of the workers, as in a pod.
        head_cpu: CPU cores that the head requests, and its limit.
        head_memory: memory that the head requests, and its limit.
        head_node_selector: labels of the head's nodes.
        head_tolerations: tolerations of the head.
        labels: labels of the job and of all pods, such as Kueue's `kueue.x-k8s.io/queue-name`.
        priority_class: priority class of all pods; empty for the cluster's default.
        service_account: service account of all pods; empty for the namespace's default.
        retries: how often to create a new cluster after a failure.
        deadline_s: time limit of the job in seconds, retries included; None for no limit.
    """

    image: str
    namespace: str = ""
    workers: Count = 1
    accelerator: str = "nvidia.com/gpu"
    gpus: Annotated[int, Field(ge=0)] = 1
    cpu: Quantity = "4"
    memory: Size = "16Gi"
    storage: Size | Literal[""] = ""
    node_selector: Labels = NODE_SELECTOR
    tolerations: list[Toleration] = Field(default=TOLERATIONS, validate_default=True)
    affinity: dict[str, Any] = Field(default_factory=dict)
    head_cpu: Quantity = "2"
    head_memory: Size = "8Gi"
    head_node_selector: Labels = Field(default_factory=dict)
    head_tolerations: list[Toleration] = Field(default_factory=list)
    labels: Labels = Field(default_factory=dict)
    priority_class: str = ""
    service_account: str = ""
    retries: Annotated[int, Field(ge=0)] = RETRIES
    deadline_s: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
