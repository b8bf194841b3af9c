"""Environment variables: set for a block, and those of company networks, a proxy and certificates."""

import contextlib
import ipaddress
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from backdrop.common.errors import ConfigError, shorten
from backdrop.common.redact import is_http, is_misread, without_credentials

# Variables that name files which libraries read: of trusted certificates, and others.
BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "MLFLOW_TRACKING_SERVER_CERT_PATH")
FILES = (
    *BUNDLES,
    *("KUBECONFIG", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "NETRC"),
    *("KF_PIPELINES_SA_TOKEN_PATH", "RAY_AUTH_TOKEN_PATH"),
)
PEM = re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----")
# Variables that libraries read as they are, ours among them.
SETTING = re.compile(r"(AWS|BACKDROP|KFP?|MLFLOW|RAY)_\w+|\w+_(PROXY|CA_BUNDLE)|SSL_CERT_FILE", re.IGNORECASE)
SCHEME = re.compile(r"(?:https?|s3)://", re.IGNORECASE)
ADDRESS = re.compile(r"\s*[a-z0-9+]+://\S*\s*", re.IGNORECASE)
PRINTABLE = re.compile("[!-~]+")
DIGITS = 18  # of a number that libraries take
# This machine, and ::1 as urllib compares it. Servers that listen everywhere call themselves 0.0.0.0.
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]", "0.0.0.0", "127.0.0.0/8")  # noqa: S104  # nothing listens there
KUBERNETES_HOST = "KUBERNETES_SERVICE_HOST"  # set in every pod
RESOLVER = Path("/etc/resolv.conf")


@contextlib.contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Sets environment variables for the block and its child processes, and restores them afterwards.

    Args:
        values: values by name; None unsets a variable.
    """
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def read_count(name: str, default: int = 1, remedy: str = "Set it to a whole number, or unset it") -> int:
    """A variable that is a positive whole number, or the default if it isn't set or is empty.

    Raises:
        ConfigError: if it is anything else.
    """
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdecimal() or int(text[:DIGITS]) == 0 or len(text) > DIGITS:
        raise ConfigError(f"{name} is {shorten(text)}", remedy)
    return int(text)


def check_header(name: str, value: str | None) -> None:
    """Refuses a secret that an HTTP header can't hold: a client would fail with the secret in its message.

    Args:
        name: of its variable, for the error.
        value: the secret.

    Raises:
        ConfigError: if it has a space, a line break or another such character.
    """
    if value and not PRINTABLE.fullmatch(value):
        raise ConfigError(f"{name} has a space, a line break or a special character", "Set it again without")


def check_files() -> None:
    """Refuses files that variables name and libraries stumble over: they wait for a pipe, and don't name certificates.

    Raises:
        ConfigError: if a variable names a pipe, or for trusted certificates a file without any.
    """
    for name in FILES:
        for path in os.environ.get(name, "").split(os.pathsep):
            with contextlib.suppress(OSError, ValueError):  # it doesn't exist: its reader says so
                mode = os.stat(path).st_mode  # noqa: PTH116  # pathlib's Path("") is the current folder
                if stat.S_ISFIFO(mode):
                    raise ConfigError(f"{name} names a pipe, {path}", "Save its content in a file")
                if name in BUNDLES and stat.S_ISREG(mode) and not PEM.search(Path(path).read_bytes()):
                    what = f"{path}, which {name} names, has no certificate in PEM form"
                    raise ConfigError(what, "Convert it: openssl x509 -inform der -in FILE -out FILE.pem")


def check_bundles(*names: str) -> None:
    """Refuses variables of trusted certificates that name nothing: clients take it for a server that is away.

    Raises:
        ConfigError: if a path of one doesn't exist.
    """
    for name in names:
        path = os.environ.get(name)
        if path and not Path(path).exists():
            raise ConfigError(f"{path}, which {name} names, doesn't exist", "Name a file of certificates, or unset it")


def tidy_settings() -> None:
    """Takes line breaks off the ends of settings, spaces off addresses, and writes their schemes in lowercase.

    What a ConfigMap or a Secret has from a file ends in a line break. Libraries compare schemes as they are.
    """
    for name, value in os.environ.items():
        if SETTING.fullmatch(name):
            tidy = value.strip(None if ADDRESS.fullmatch(value) else "\r\n")  # a password may end in a space
            tidy = SCHEME.sub(lambda match: match[0].lower(), tidy, count=1)
            if tidy != value:
                os.environ[name] = tidy


def bypass_proxy() -> None:
    """Adds addresses that no proxy can reach to `no_proxy`, for this process and its children, where a proxy is set.

    They are this machine's own, and in a pod the names of the cluster's Services and the address of its API. Libraries
    read one spelling of the variable or the other, so both get all hosts of both, in the form that all of them know:
    with commas, a suffix without `*`, and an address beside the network that it is in. A lone `*` stays.
    """
    names = ("no_proxy", "NO_PROXY")
    if any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ):
        hosts = [host for name in names for host in re.split(r"[,\s]+", os.environ.get(name, ""))]
        hosts = [host.removeprefix("*") if host.startswith("*.") else host for host in hosts]
        hosts += [*_addresses_within([*hosts, *LOOPBACK]), *LOOPBACK, *_cluster_hosts()]
        for name in names:
            os.environ[name] = "*" if "*" in hosts else ",".join(dict.fromkeys(filter(None, hosts)))


def use_network(settings: Any, address: str) -> None:
    """Sets the environment's proxy and certificates in a generated client's configuration, which ignores them.

    Args:
        settings: a Configuration of Kubernetes' or of Kubeflow Pipelines' client.
        address: the server's URL.

    Raises:
        ConfigError: if the proxy's address can't be used.
    """
    proxy = proxy_for(address)
    if proxy and not settings.proxy:
        bare = without_credentials(proxy)
        if is_misread(proxy) or not is_http(bare):
            raise ConfigError(f"The proxy {bare} isn't an http address", "Fix HTTP_PROXY and HTTPS_PROXY")
        settings.proxy, settings.proxy_headers = proxy, _proxy_login(proxy)
    settings.ssl_ca_cert = settings.ssl_ca_cert or certificates()


def proxy_for(address: str) -> str | None:
    """The proxy that the environment names for a URL; None for a direct connection."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy: str | None = select_proxy(address, get_environ_proxies(address))
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def certificates() -> str | None:
    """The environment's file of trusted certificates; None for the public ones.

    Raises:
        ConfigError: if it isn't a file.
    """
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if path := os.environ.get(name):
            if not Path(path).is_file():
                raise ConfigError(f"{path}, named by {name}, isn't a file", "Name a file of certificates")
            return path
    return None


def _proxy_login(proxy: str) -> dict[str, str]:
    """The header that tells a proxy who asks; empty if its address has no name."""
    from urllib3.util import make_headers

    parts = urlsplit(proxy)
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return dict(make_headers(proxy_basic_auth=login)) if parts.username else {}


def _addresses_within(hosts: list[str]) -> Iterator[str]:
    """The IP addresses of servers in the environment that are in one of the networks among the hosts."""
    networks = []
    for host in hosts:
        with contextlib.suppress(ValueError):
            networks.append(ipaddress.ip_network(host, strict=False))
    for value in filter(is_http, os.environ.values()):
        with contextlib.suppress(ValueError):  # a name
            address = ipaddress.ip_address(urlsplit(value).hostname or "")
            if any(address in network for network in networks):
                yield str(address)
                if address.version == 6:
                    yield f"[{address}]"  # as urllib compares it


def _cluster_hosts() -> list[str]:
    """In a pod, the API's address and the suffixes of Services' names; the resolver knows the cluster's domain."""
    if not (api := os.environ.get(KUBERNETES_HOST)):
        return []
    with contextlib.suppress(OSError):
        words = RESOLVER.read_text(encoding="utf-8").split()
        return [api, ".svc", *(f".{word}" for word in words if word.startswith("svc."))]
    return [api, ".svc"]


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
