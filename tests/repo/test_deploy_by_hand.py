"""The image's steps, carried out without an engine; what they gave serves, finds an image, and ends well."""

import json
import re
import signal
import socket
import subprocess
import time
from contextlib import closing
from http.client import HTTPConnection

import pytest
from conftest import paint
from image_by_hand import ImageByHand

KEY = "0123456789abcdef0123456789abcdef"
# libraries that every glibc image has, and those that python:*-slim brings for Python itself
SYSTEM = {"linux-vdso", "ld-linux-x86-64", "ld-linux-aarch64", "libc", "libm", "libpthread", "libdl", "librt",
          "libutil", "libgcc_s", "libstdc++", "libz"}  # fmt: skip


def is_healthy(image, environment) -> bool:
    return subprocess.run(image.health, check=False, env=environment, capture_output=True).returncode == 0


def ask(environment, method, path, body=None, key=KEY):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with closing(HTTPConnection("127.0.0.1", int(environment["T2I_PORT"]), timeout=60)) as http:
        http.request(method, path, None if body is None else json.dumps(body), headers)
        answer = http.getresponse()
        return answer.status, json.loads(answer.read())


def within(seconds, what):
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends, f"not within {seconds} s"
        time.sleep(0.2)


def written(image):
    """What an engine would have to write to the image itself: nothing, since its root is read-only."""
    volumes = tuple(str(image.root / name) for name in ("data", "models", "tmp"))
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in image.root.rglob("*")
        if not str(path).startswith(volumes)
    }


def environment_of(image):
    """What the image says, but on the loopback, on a free port, and with a model that is there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return image.environment | {
        "T2I_HOST": "127.0.0.1",
        "T2I_PORT": str(port),
        "T2I_MODEL_NAME": "t2i_mini",
        "T2I_API_KEY": KEY,
        "TMPDIR": str(image.root / "tmp"),
    }


def has_no_torch_and_no_pip(image):
    (packages,) = image.root.glob("opt/t2i/lib/python3*/site-packages")
    names = {path.name.partition("-")[0] for path in packages.glob("*.dist-info")}
    assert {"t2i_pipelines", "towhee", "openvino", "fastapi", "uvicorn"} <= names
    assert not {"torch", "transformers", "pip", "pytest"} & names


def needs_no_library_that_a_slim_image_lacks(image):
    files = [path for path in image.root.glob("opt/t2i/lib/**/*.so*") if path.is_file()]
    assert len(files) > 50
    told = subprocess.run(["ldd", *files], check=False, capture_output=True, text=True).stdout
    inside = {path.name for path in files}
    outside = {
        re.split(r"\.so|-", name)[0] if name.startswith("lib") else name
        for name, place in re.findall(r"^\s+(\S+) => (.+?)(?: \(0x|$)", told, re.M)
        if not place.startswith(str(image.root)) and name not in inside
    }
    # OpenVINO's plugin for Intel's GPUs is the only one that asks for OpenCL, and not loaded without them
    assert outside - SYSTEM <= {"libOpenCL"}


def does_not_start_on_all_addresses_without_a_key(image, environment):
    environment = {**environment, "T2I_HOST": image.environment["T2I_HOST"]}
    del environment["T2I_API_KEY"]
    done = subprocess.run(
        image.command,
        check=False,
        env=environment,
        cwd=image.workdir,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "set T2I_API_KEY to a key that clients must know" in done.stderr
    assert "Traceback" not in done.stderr


def serves_as_it_stands_and_ends_when_it_is_told_to(image, environment):
    paint(image.root / "pictures/red.png", "red", (200, 300))
    paint(image.root / "pictures/green.png", "green", (200, 300))
    assert not is_healthy(image, environment)
    before = written(image)
    with subprocess.Popen(
        image.command, env=environment, cwd=image.workdir, stderr=subprocess.PIPE, text=True
    ) as service:
        try:
            within(120, lambda: service.poll() is not None or is_healthy(image, environment))
            within(120, lambda: ask(environment, "GET", "/readyz", key=None)[0] == 200)
            assert ask(environment, "POST", "/v1/search", {"text": "red"}, key=None)[0] == 401
            status, job = ask(environment, "POST", "/v1/insert", {"source": "pictures"})
            assert status == 202, job
            within(60, lambda: ask(environment, "GET", f"/v1/jobs/{job['id']}")[1]["finished"])
            assert ask(environment, "GET", f"/v1/jobs/{job['id']}")[1]["counts"] == {"inserted": 2}
            _, found = ask(environment, "POST", "/v1/search", {"text": "a plain red background"})
            best, _ = found["results"][0]["hits"]
            assert best["path"] == "pictures/red.png"
            service.send_signal(getattr(signal, image.stop_signal))
            assert service.wait(60) == 0
        finally:
            service.kill()
        said = service.stderr.read()
    assert "Traceback" not in said
    assert KEY not in said
    assert written(image) == before
    assert (image.root / "data/milvus.db").exists()
    assert not is_healthy(image, environment)


@pytest.mark.slow
def test_the_steps_give_an_image_that_serves(tmp_path):
    image = ImageByHand(tmp_path / "image")  # a minute or more: all in one test, so that it is built once
    has_no_torch_and_no_pip(image)
    needs_no_library_that_a_slim_image_lacks(image)
    environment = environment_of(image)
    does_not_start_on_all_addresses_without_a_key(image, environment)
    serves_as_it_stands_and_ends_when_it_is_told_to(image, environment)
