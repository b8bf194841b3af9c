"""What a Kubernetes cluster gives to those who work on it: settings, rights, a place on the GPU nodes."""

from typing import Annotated, Any, Literal

from pydantic import Field

from backdrop.config.network import Count
from backdrop.config.records import Record

# A ConfigMap and a Secret of this name, both optional, hold what pods find in their environment.
SETTINGS = "backdrop"
CONFIG_KEYS = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
SECRET_KEYS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
USER = 1000  # the image's; Kubernetes wants a number to know that it isn't root
# The 64 MiB that a pod has of itself kill the data loaders' workers.
SHARED_MEMORY, SHARED_MEMORY_SIZE = "/dev/shm", "8Gi"  # noqa: S108  # no temporary file of ours
RETRIES = 2

NODE_SELECTOR = {"nvidia.com/gpu.present": "true"}
TOLERATIONS = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


class Cluster(Record):
    """A Ray cluster that KubeRay makes for one job: a head without GPU, and workers on the GPU nodes.

    Attributes:
        image: of all its pods; it has Backdrop with the extra `tuning`, and the Ray that is installed here.
        namespace: empty for that of our own pod, or of the kubeconfig's context.
        workers: how many pods.
        accelerator: the GPUs' resource name.
        gpus: of each worker; 0 for none.
        cpu: cores that each worker asks for.
        memory: what each worker may use, /dev/shm included.
        node_selector: labels of the workers' nodes.
        tolerations: of these nodes' taints.
        service_account: of all pods; empty for the namespace's own.
        retries: how often a new cluster is made after a failure.
        deadline_s: of the whole job, its retries included; None for no end.
    """

    image: str
    namespace: str = ""
    workers: Count = 1
    accelerator: str = "nvidia.com/gpu"
    gpus: Annotated[int, Field(ge=0)] = 1
    cpu: Count = 4
    memory: str = "16Gi"
    node_selector: dict[str, str] = NODE_SELECTOR
    tolerations: list[dict[str, str]] = TOLERATIONS
    service_account: str = ""
    retries: Annotated[int, Field(ge=0)] = RETRIES
    deadline_s: Count | None = None


class Toleration(Record):
    """As in a pod: which taints don't matter."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    seconds: int | None = Field(default=None, alias="tolerationSeconds")

    def covers(self, taint: Any) -> bool:
        """Whether it tolerates a node's taint, by the rules of Kubernetes' scheduler."""
        if self.effect not in ("", taint.effect) or self.key not in ("", taint.key):
            return False
        return self.operator == "Exists" or (self.key != "" and self.value == (taint.value or ""))
