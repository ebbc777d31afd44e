"""OpenVINO, as this library imports it, tells nobody."""

import subprocess
import sys

CODE = """
import sys
asked = []
def watch(event, told):
    if event in ("os.fork", "os.posix_spawn", "socket.getaddrinfo", "socket.connect"):
        asked.append((event, str(told)))
sys.addaudithook(watch)
import time
from t2i_pipelines.encoders import backends
time.sleep(1)
print(asked, "openvino_telemetry" in sys.modules, bool(backends.core().available_devices))
"""


def test_importing_openvino_asks_no_other_host():
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[] False True"
