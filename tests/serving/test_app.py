"""What the service answers, over real sockets."""

import io
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from backdrop.config import PredictedDice
from backdrop.data.masks import encode_png
from backdrop.inference.alpha import make_matte
from backdrop.inference.compose import PictureOptions, Pictures, compose
from backdrop.inference.compose import encode as encode_picture
from backdrop.inference.ensemble import EnsembleModel
from backdrop.inference.predict import BATCH
from backdrop.inference.uncertainty import expected_dice, predict_dice
from backdrop.serving.batching import Batcher, Job
from backdrop.serving.champion import Served
from backdrop.serving.gate import Limits
from tests.serving.conftest import Service, champion_of, encode, make_model, serving

HEIC = Path(__file__).parents[1] / "data" / "files" / "two-colors.heic"
TOKENS = ("a-token-of-the-first-team", "a-token-of-the-second-team")


def as_form(*parts: tuple[str, str | None, bytes]) -> tuple[bytes, dict[str, str]]:
    """A form of parts: name, file name (None for a plain field) and content."""
    lines = []
    for name, file, content in parts:
        about = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
        lines.append(f"--edge\r\n{about}\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(lines) + b"--edge--\r\n", {"Content_Type": "multipart/form-data; boundary=edge"}


def test_a_mask_is_what_the_model_predicts(service: Service, model: EnsembleModel, photo: Any, png: bytes) -> None:
    reply = service.post("/v1/mask", png)
    assert reply.status == 200, reply.body
    assert reply.body == encode_png(model.mask(photo))
    assert reply.headers["content-type"] == "image/png"
    assert reply.headers["backdrop-model"] == "models:/cars/3"
    assert float(reply.headers["backdrop-unconfidence"]) >= 0
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in reply.headers


def test_the_dice_is_told_if_the_version_can_tell(model: EnsembleModel, photo: Any, png: bytes) -> None:
    rule = PredictedDice(intercept=-0.2, slope=0.9, spread=0.5)
    probability = model.probability(photo)
    found = predict_dice(rule, expected_dice(probability, model.mask(photo)))
    with serving(champion_of(replace(model, predicted_dice=rule))) as service:
        headers = service.post("/v1/mask", png).headers
    assert headers["backdrop-dice"] == f"{found.dice:.4f}"
    assert headers["backdrop-dice-range"] == f"{found.low:.4f} {found.high:.4f}"
    with serving(champion_of(model)) as service:
        assert service.post("/v1/mask", png).headers["backdrop-dice"] is None


def test_a_cut_out_is_what_predict_makes(service: Service, model: EnsembleModel, photo: Any, png: bytes) -> None:
    (outcome,) = model.outcomes([model.prepare(photo)], with_probability=True)
    assert outcome.probability is not None
    matte = make_matte(photo, outcome.probability, model.cut(outcome, ""))
    for query, options in (
        ("", PictureOptions()),
        ("?type=webp&crop=10", PictureOptions("webp", crop=10)),
        ("?type=jpeg&background=red", PictureOptions("jpeg", (255, 0, 0))),
        ("?type=jpeg", PictureOptions("jpeg", (255, 255, 255))),
        ("?background=%2300ff00&crop=0", PictureOptions(background=(0, 255, 0), crop=0)),
    ):
        reply = service.post(f"/v1/cutout{query}", png)
        assert reply.status == 200, reply.body
        assert reply.headers["content-type"] == f"image/{options.type}"
        assert reply.body == encode_picture(compose(matte, options), options.type)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("type=gif", "type: Input should be 'png', 'webp' or 'jpeg'"),
        ("background=mauvish", "mauvish is not a color"),
        ("background=rgb(300,0,0)", "rgb(300,0,0) is not a color"),
        ("background=", "background: String should have at least 1 character"),
        ("background=%23ff000080", "#ff000080 is not a color without transparency"),
        ("crop=51", "crop: Input should be less than or equal to 50"),
        ("crop=nan", "crop: Input should be"),
        ("size=5", "size: Extra inputs are not permitted"),
    ],
)
def test_options_that_cannot_be_used_are_refused(service: Service, png: bytes, query: str, error: str) -> None:
    reply = service.post(f"/v1/cutout?{query}", png)
    assert reply.status == 422
    assert reply.json["error"].startswith(error)
    assert reply.json["remedy"]


def test_an_error_of_ours_fails_only_its_own_photograph(service: Service) -> None:
    champion = service.champion
    batcher = Batcher(champion, lambda _: None)

    class Broken(Pictures):
        def draw(self, *_: Any) -> bytes:
            raise RuntimeError("broken")

    class Slow(Pictures):
        def draw(self, *arguments: Any) -> bytes:
            time.sleep(0.2)
            return super().draw(*arguments)

    kinds = [Broken("mask"), *[Slow("mask")] * (BATCH - 1)]
    results = [
        batcher.submit(Job(encode_png(np.eye(9 + place, dtype=bool)), 99, kind)) for place, kind in enumerate(kinds)
    ]
    batcher.start()
    with pytest.raises(RuntimeError, match="broken"):
        results[0].result()
    assert all(result.result().data for result in results[1:])
    batcher.close()


def test_a_mask_has_no_options(service: Service, png: bytes) -> None:
    assert service.post("/v1/mask?crop=5", png).status == 422


def test_a_form_is_as_good_as_a_body(service: Service, png: bytes) -> None:
    body, headers = as_form(("photo", "car.png", png))
    assert service.post("/v1/mask", body, **headers).body == service.post("/v1/mask", png).body


def test_every_kind_of_photograph_is_read(service: Service, photo: Any) -> None:
    webp = io.BytesIO()
    Image.fromarray(photo).save(webp, "webp")
    for data in (encode(photo, ".jpg"), webp.getvalue()):
        assert cv2.imdecode(np.frombuffer(service.post("/v1/mask", data).body, np.uint8), 0).shape == photo.shape[:2]
    assert service.post("/v1/mask", HEIC.read_bytes()).status == 200


def test_a_turned_photograph_is_cut_out_as_a_viewer_shows_it(service: Service, photo: Any) -> None:
    data, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(data, "jpeg", exif=exif)
    mask = cv2.imdecode(np.frombuffer(service.post("/v1/mask", data.getvalue()).body, np.uint8), 0)
    assert mask.shape == photo.shape[1::-1]


def test_concurrent_requests_share_batches_and_each_gets_its_own_picture(
    service: Service, model: EnsembleModel
) -> None:
    images = [np.random.default_rng(seed).integers(0, 255, (32 + seed, 40, 3), np.uint8) for seed in range(12)]
    with ThreadPoolExecutor(len(images)) as pool:
        replies = list(pool.map(lambda image: service.post("/v1/mask", encode(image, ".png")), images))
    for image, reply in zip(images, replies, strict=True):
        mask = cv2.imdecode(np.frombuffer(reply.body, np.uint8), 0)
        # Networks see other batches, which may change the last bit of a pixel just at one half.
        assert np.mean((mask > 0) != model.mask(image)) < 0.01
    sizes = re.findall(r"backdrop_batch_photographs_(sum|count) (\S+)", service.get("/metrics").body.decode())
    found = {name: float(value) for name, value in sizes}
    assert found["sum"] > found["count"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "The request has no photograph"),
        (b"hello", 415, "The photograph is no JPEG, PNG, WebP or HEIC file"),
        (b"GIF89a", 415, "The photograph is no JPEG"),
        (b"\xff\xd8\xff\xe0", 400, "The photograph is not a readable image"),
    ],
)
def test_what_is_no_photograph_is_refused(service: Service, body: bytes, status: int, error: str) -> None:
    reply = service.post("/v1/mask", body)
    assert reply.status == status
    assert reply.json["error"].startswith(error)
    assert reply.json["remedy"]


def test_other_forms_are_refused(service: Service, png: bytes) -> None:
    for parts, error in (
        ((), "The form can't be read|The request has no photograph"),
        ((("photo", None, b"text"),), "The form can't be read"),
        ((("photo", "a.png", png), ("more", "b.png", png)), "The form can't be read .*Too many files"),
    ):
        body, headers = as_form(*parts)
        reply = service.post("/v1/mask", body, **headers)
        assert reply.status == 400
        assert re.match(error, reply.json["error"])
    reply = service.post("/v1/mask", png, Content_Type="multipart/form-data")
    assert reply.status == 400
    assert "boundary" in reply.json["error"]


def test_a_photograph_of_too_many_pixels_is_refused_before_it_is_decoded(
    service: Service, monkeypatch: pytest.MonkeyPatch, png: bytes
) -> None:
    monkeypatch.setenv("BACKDROP_MAX_PIXELS", "2399")
    reply = service.post("/v1/mask", png)
    assert reply.status == 413
    assert reply.json["error"] == "The photograph has 60x40 pixels, more than the 2,399 that are decoded"


def test_an_unknown_path_or_method_is_answered_in_json(service: Service) -> None:
    for method, path, status in (
        ("GET", "/v2", 404),
        ("GET", "/healthz/", 404),  # not a redirect, which behind a proxy with TLS would lead to http://
        ("GET", "/v1/mask", 405),
        ("PUT", "/readyz", 405),
    ):
        reply = service.ask(method, path)
        assert reply.status == status
        assert set(reply.json) == {"error", "remedy"}
    assert reply.headers["allow"] == "GET"


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/mask", "/v2"])
def test_head_is_answered_as_get_without_its_body(service: Service, path: str) -> None:
    get, head = service.get(path), service.ask("HEAD", path)
    assert (head.status, head.headers["content-type"]) == (get.status, get.headers["content-type"])
    assert not head.body


def test_without_a_model_it_lives_but_is_not_ready(png: bytes) -> None:
    with serving(champion_of(None)) as service:
        assert service.get("/healthz").status == 200
        reply = service.get("/readyz")
        assert (reply.status, reply.json["model"]) == (503, None)
        reply = service.post("/v1/mask", png)
        assert reply.status == 503
        assert reply.json["error"] == "No version of models:/cars@champion is loaded yet"
        assert reply.headers["retry-after"]


def test_a_registry_that_is_away_changes_nothing_but_is_told(service: Service, png: bytes) -> None:
    reply = service.get("/readyz")
    assert reply.status == 200
    assert reply.json == {"model": "models:/cars/3", "registry": "away", "stopping": False}
    assert "backdrop_registry_followed 0.0" in service.get("/metrics").body.decode()
    assert service.post("/v1/mask", png).status == 200


def test_tokens_are_asked_for_if_there_are_any(model: EnsembleModel, png: bytes) -> None:
    with serving(champion_of(model), Limits(tokens=TOKENS)) as service:
        for token in TOKENS:
            assert service.post("/v1/mask", png, Authorization=f"Bearer {token}").status == 200
        for header in ("", "Bearer ", "Bearer another", f"Basic {TOKENS[0]}", TOKENS[0], f"Bearer {TOKENS[0]}x"):
            reply = service.post("/v1/mask", png, **({"Authorization": header} if header else {}))
            assert reply.status == 401
            assert reply.headers["www-authenticate"] == "Bearer"
        for path in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json"):
            assert service.get(path).status == 200


def test_more_than_it_takes_at_a_time_is_refused_at_once(model: EnsembleModel, png: bytes) -> None:
    with serving(champion_of(model), Limits(requests=2)) as service:
        slow = [Slow(service) for _ in range(2)]
        while "\nbackdrop_requests_in_progress 2.0" not in service.get("/metrics").body.decode():
            time.sleep(0.01)
        reply = service.post("/v1/mask", png * 40)
        assert reply.status == 429
        assert int(reply.headers["retry-after"]) >= 1
        assert service.get("/readyz").status == 200
        for one in slow:
            one.finish(png)
            assert one.status() == 200
        assert service.post("/v1/mask", png).status == 200


def test_a_body_that_does_not_come_is_given_up(model: EnsembleModel) -> None:
    with serving(champion_of(model), Limits(seconds=0.3)) as service:
        assert Slow(service).status() == 408


def test_networks_that_take_too_long_are_given_up(model: EnsembleModel, png: bytes) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Stuck(EnsembleModel):
        def outcomes(self, *arguments: Any, **options: Any) -> Any:
            entered.set()
            leave.wait()
            return super().outcomes(*arguments, **options)

    champion = champion_of(Stuck(model.members, model.recipe_weights))
    with serving(champion, Limits(seconds=1)) as service:
        reply = service.post("/v1/mask", png)
        assert reply.status == 503
        assert reply.json["error"] == "The photograph wasn't done within 1 s"
        assert entered.wait(60)
        leave.set()
        while (status := service.post("/v1/mask", png).status) == 503:  # on a busy machine
            pass
        assert status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_too_many_bytes_is_refused(model: EnsembleModel, chunked: bool) -> None:
    with serving(champion_of(model), Limits(bytes=1000)) as service:
        body = iter([b"x" * 400] * 3) if chunked else b"x" * 1200
        reply = service.post("/v1/mask", body)
        assert reply.status == 413
        assert reply.json["error"] == "The request has more than 1,000 bytes"


def test_another_version_takes_over_without_a_failed_request(tmp_path: Path, png: bytes) -> None:
    models = [make_model(tmp_path / str(seed), seed) for seed in (1, 2)]
    masks = {f"models:/cars/{number}": encode_png(model.mask(decode(png))) for number, model in enumerate(models)}
    champion = champion_of(models[0])
    with serving(champion, Limits(requests=8)) as service, ThreadPoolExecutor(4) as pool:
        ending = threading.Event()

        def keep_asking() -> list[tuple[int, str, bytes]]:
            replies = []
            while not ending.is_set():
                reply = service.post("/v1/mask", png)
                replies.append((reply.status, reply.headers["backdrop-model"], reply.body))
            return replies

        askers = [pool.submit(keep_asking) for _ in range(4)]
        for turn in range(20):
            champion.current = Served(f"models:/cars/{turn % 2}", f"{turn % 2}", models[turn % 2])
            time.sleep(0.03)
        ending.set()
        replies = [reply for asker in askers for reply in asker.result()]
    assert {status for status, _, _ in replies} == {200}
    assert {name for _, name, _ in replies} >= set(masks)
    assert all(name not in masks or body == masks[name] for _, name, body in replies)


def test_a_request_is_one_line_of_json_without_its_secrets(
    service: Service, png: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    service.post("/v1/mask?token=hidden-word", png, Authorization="Bearer hidden-word")
    service.get("/readyz")
    (line,) = capsys.readouterr().out.splitlines()
    entry = json.loads(line)
    assert "hidden-word" not in line
    assert entry["path"] == "/v1/mask"
    assert entry["received"] == len(png)


def test_a_log_that_cannot_be_written_changes_nothing(
    service: Service, png: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, io.TextIOWrapper(full, write_through=True) as out:
        monkeypatch.setattr("sys.stdout", out)
        assert service.post("/v1/mask", png).status == 200
        assert service.post("/v1/mask", b"").status == 400
        monkeypatch.undo()
    assert not caplog.records


def test_the_page_is_small_and_of_one_piece(service: Service) -> None:
    reply = service.get("/")
    assert reply.status == 200
    assert len(reply.body) < 100_000
    assert not re.search(rb"(?:src|href)=.?(?:https?:)?//", reply.body)
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_metrics_count_requests_and_name_no_path_of_strangers(service: Service, png: bytes) -> None:
    service.post("/v1/mask", png)
    service.get("/secret-path")
    text = service.get("/metrics").body.decode()
    assert re.search(r'backdrop_requests_total\{path="/v1/mask",status="200"\} [1-9]', text)
    assert 'backdrop_requests_total{path="other",status="404"}' in text
    assert "secret-path" not in text
    assert "backdrop_model_version 3.0" in text


def test_openapi_describes_pictures_and_problems(service: Service) -> None:
    described = service.get("/openapi.json").json["paths"]
    assert {"/v1/mask", "/readyz"} <= set(described)
    mask = described["/v1/mask"]["post"]
    assert {"image/jpeg", "image/png", "image/webp", "image/heic", "multipart/form-data"} <= set(
        mask["requestBody"]["content"]
    )
    assert "image/png" in mask["responses"]["200"]["content"]
    assert "backdrop-model" in mask["responses"]["200"]["headers"]
    assert {"400", "401", "413", "415", "422", "429", "503"} <= set(mask["responses"])
    assert service.get("/docs").status == 404


class Slow:
    """A request whose body doesn't come yet."""

    def __init__(self, service: Service) -> None:
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=60)
        self.socket.sendall(b"POST /v1/mask HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")

    def finish(self, png: bytes) -> None:
        self.socket.sendall(png.ljust(100_000, b"\0"))

    def status(self) -> int:
        with self.socket:
            return int(self.socket.recv(1000).split()[1])


def decode(png: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
