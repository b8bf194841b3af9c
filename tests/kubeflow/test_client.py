"""Reaching an endpoint: who asks, and one clear line for each way in which it fails."""

import json
import os
import socket
import subprocess
import sys
from base64 import b64decode
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from backdrop.common import kubernetes_client
from backdrop.common.errors import ConfigError, EndpointError
from backdrop.kubeflow import client as endpoint
from backdrop.kubeflow.client import connect
from tests.fakes.http import JsonHandler, company_certificate, running, silent
from tests.fakes.kfp import FakeKfp, Refused, Server, serving


def refuse(status: int | None, message: str = "") -> None:
    raise Refused(status, message)


def pipelines_of(found: endpoint.Endpoint) -> list[object]:
    with found.errors():
        return list(found.every(found.client.list_pipelines, "pipelines", namespace=found.namespace))


@pytest.mark.parametrize(("version", "told"), [("2.17.0", "2.17.0"), ("v2.18.1-rc.0", "v2.18.1-rc.0"), ("unknown", "")])
def test_version(version: str, told: str) -> None:
    with serving(FakeKfp(version)) as host:
        assert connect(host).version == told


def test_a_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks like a server that is asked for another's name."""
    with serving(FakeKfp()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        assert connect("http://kubeflow.example:8888").version == "2.17.0"


def test_a_proxy_is_told_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Login()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"me:p%40ss@127.0.0.1:{proxy.server_port}")
        with pytest.raises(EndpointError, match=r"refuses the request \(407"):
            connect("http://kubeflow.example:8888")
        assert b64decode(proxy.logins[0].removeprefix("Basic ")) == b"me:p@ss"


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        (
            "socks5://127.0.0.1:9",
            "The proxy socks5://127.0.0.1:9 isn't an http address. Fix HTTP_PROXY and HTTPS_PROXY.",
        ),
        ("ftp://me:secret@127.0.0.1:9", "The proxy ftp://127.0.0.1:9 isn't an http address. Fix HTTP_PROXY and"),
    ],
)
def test_a_proxy_that_is_none(proxy: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(ConfigError) as caught:
        connect("http://kubeflow.example:8888")
    assert str(caught.value).startswith(message)


def test_a_bundle_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.crt")
    with pytest.raises(ConfigError, match=r"^/nowhere\.crt, named by SSL_CERT_FILE, isn't a file. Name a file of"):
        connect("https://kubeflow.example")


class Login(ThreadingHTTPServer):
    """A proxy that keeps who asks, and lets nobody through."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), LoginHandler)
        self.logins: list[str] = []


class LoginHandler(JsonHandler):
    server: Login

    def refuse(self) -> None:
        self.server.logins.append(self.headers.get("proxy-authorization", ""))
        self.reply(407, {"message": "who?"})

    do_GET = refuse  # noqa: N815  # http.server's name


def test_certificates_of_a_company_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, bundle = company_certificate(tmp_path)
    with running(Server(FakeKfp())) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        host = f"https://127.0.0.1:{server.server_port}"
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(EndpointError, match="CERTIFICATE_VERIFY_FAILED"):
            connect(host)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        assert connect(host).version == "2.17.0"


def test_the_uis_own_answer_is_understood() -> None:
    kfp = FakeKfp()
    kfp.health = {"apiServerTagName": "2.17.2", "multi_user": False}
    with serving(kfp) as host:
        assert connect(f"{host}/").version == "2.17.2"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "No Kubeflow endpoint is set. Give --host, or set KF_PIPELINES_ENDPOINT."),
        ("ml-pipeline:8888", "ml-pipeline:8888 isn't an http address. Write it as http://ml-pipeline:8888."),
    ],
)
def test_addresses_that_are_none(given: str, message: str) -> None:
    with pytest.raises(EndpointError) as caught:
        connect(given)
    assert str(caught.value) == message


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            EndpointError, match=rf"^Kubeflow at {address} doesn't answer \(.*Connection refused\)\. Chec"
        ):
            connect(address)


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 4 * max(endpoint.FIRST_TIMEOUT_S) < 90
    monkeypatch.setattr(endpoint, "FIRST_TIMEOUT_S", (0.1, 0.1))
    with silent() as port, pytest.raises(EndpointError, match=r"doesn't answer \(.*timed out"):
        connect(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("health", "message"),
    [
        ({"tag_name": "2.5.0"}, r"is 2\.5\.0, which is too old\. Upgrade it to 2\.17 or newer\.$"),
        (b"<html>Sign in</html>", r"answers, but it isn't Kubeflow Pipelines\. Use the address of the API itself"),
        (["what"], r"answers, but it isn't Kubeflow Pipelines"),
    ],
)
def test_what_is_no_kubeflow_of_today(health: object, message: str) -> None:
    kfp = FakeKfp()
    kfp.health = health
    with serving(kfp) as host, pytest.raises(EndpointError, match=message):
        connect(host)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"has no API v2beta1\. Upgrade Kubeflow Pipelines to 2\.17"),
        (401, r"rejects the token, or none was sent \(401\)\. Set KFP_EXISTING_TOKEN to a new token"),
        (403, r"denies permission \(403: no right\)\. Ask for permission"),
        (410, r"refuses the request \(410: no right\)"),
        (500, r"refuses the request \(500: no right\)"),
        (None, r"doesn't answer \(.*Remote end closed connection"),
    ],
)
def test_refusals(status: int | None, message: str) -> None:
    kfp = FakeKfp()
    kfp.before = lambda _who, _what: refuse(status, "no right")
    with serving(kfp) as host, pytest.raises(EndpointError, match=message):
        connect(host)


def test_user_token(kfp: FakeKfp, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp.token = "mine"
    with pytest.raises(EndpointError, match=r"none was sent \(401\)"):
        pipelines_of(connect())
    monkeypatch.setenv(endpoint.TOKEN, "mine")
    assert pipelines_of(connect()) == []
    monkeypatch.setenv(endpoint.TOKEN, "theirs")
    with pytest.raises(EndpointError) as caught:
        pipelines_of(connect())
    assert "theirs" not in str(caught.value)


def test_the_pods_token_is_read_for_each_call(
    kfp: FakeKfp, host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    kfp.token = "first"
    endpoint = connect()
    assert pipelines_of(endpoint) == []
    kfp.token = "second"  # the kubelet turns it round before the first expires
    with pytest.raises(EndpointError, match="401"):
        pipelines_of(endpoint)
    file.write_text("second\n")
    assert pipelines_of(endpoint) == []


def test_pod_token_that_is_named_must_be_there(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", "/no/such")
    with pytest.raises(EndpointError, match=r"^/no/such, named by KF_PIPELINES_SA_TOKEN_PATH, isn't a file"):
        connect()


def test_namespace_is_needed_where_users_have_theirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving(FakeKfp(many_users=True)) as host:
        with pytest.raises(EndpointError, match=r"has a namespace for each user\. Give --namespace"):
            connect(host)
        assert connect(host, "ml").namespace == "ml"
        pod = tmp_path / "namespace"
        pod.write_text("team\n")
        monkeypatch.setattr(kubernetes_client, "POD_NAMESPACE", pod)
        assert connect(host).namespace == "team"
        monkeypatch.setenv(endpoint.NAMESPACE, "mine")
        assert connect(host).namespace == "mine"
        assert pipelines_of(connect(host)) == []


def test_namespace_is_of_no_account_where_all_share(host: str) -> None:
    assert connect(host, "ml").namespace is None


def test_home_is_left_alone(tmp_path: Path) -> None:
    """kfp's own client writes there, or asks the server for 25 seconds while it's made."""
    one, many = FakeKfp(many_users=False), FakeKfp(many_users=True)
    with serving(one) as host, serving(many) as other:
        code = f"from backdrop.kubeflow.client import connect; [connect(one, 'ml') for one in ({host!r}, {other!r})]"
        environment = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
    assert one.calls == many.calls == ["GET healthz"]


def test_pages_of_the_ui(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect().page("runs/details/1") == f"{host}/#/runs/details/1"
    monkeypatch.setenv(endpoint.UI_HOST, "https://kubeflow.example/")
    assert connect().page("runs/details/1") == "https://kubeflow.example/#/runs/details/1"


def test_every_page_is_read_and_names_are_exact(kfp: FakeKfp, host: str) -> None:
    for name in ("a", "A", "b", "a", "c"):
        kfp.add(kfp.pipelines, "pipeline_id", {"display_name": name})
    endpoint = connect()
    assert len(pipelines_of(endpoint)) == 5
    named = endpoint.named(endpoint.client.list_pipelines, "pipelines", "a", namespace=None)
    assert [entry.display_name for entry in named] == ["a", "a"]
    assert json.dumps(kfp.calls).count("GET pipelines") == 3 + 2
