"""Dockerfile, compose.yaml and the manifests, read by their own linters and schemas; no engine is needed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from click import Context
from image_by_hand import context, steps
from typer.main import get_command

from t2i_pipelines.cli import app
from t2i_pipelines.serve.options import KEY_VARIABLE, ServeOptions

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
MANIFESTS = [
    document
    for path in sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
OF_KUBERNETES = ["1.28", "1.31", "1.34"]
WHOLE = "".join(
    path.read_text() for path in (ROOT / "Dockerfile", *sorted((ROOT / "deploy").rglob("*.yaml")))
)


def manifest(kind, name="t2i"):
    (found,) = (one for one in MANIFESTS if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def values(instruction):
    return [value for name, value in steps() if name == instruction]


def image_environment():
    (line,) = values("ENV")
    return dict(re.findall(r"(\w+)=(\S+)", line))


def test_every_variable_is_an_option_of_the_service():
    options = get_command(app).commands["serve"]
    context = Context(options, info_name="serve", **options.context_settings)
    known = {one.envvar or f"T2I_{one.name.upper()}": one for one in options.params}
    given = {
        **image_environment(),
        **COMPOSE["services"]["t2i"]["environment"],
        **manifest("ConfigMap")["data"],
    }
    variables = {name for name in given if name.startswith("T2I_")} - {KEY_VARIABLE}
    assert {"T2I_HOST", "T2I_PORT", "T2I_ROOT", "T2I_URI", "T2I_MODEL_NAME"} <= variables
    for variable in variables:
        option = known[variable]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, "17")
            assert option.resolve_envvar_value(context) == "17"


def test_the_command_is_the_service():
    assert [json.loads(value) for value in (*values("ENTRYPOINT"), *values("CMD"))] == [["t2i"], ["serve"]]


def test_hadolint_has_nothing_to_say():
    command = [BIN / "hadolint", "--failure-threshold", "style", "Dockerfile"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_image_runs_as_a_user_that_is_not_root():
    (user,) = values("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "numbers, which Kubernetes can tell from root's"


def test_the_image_brings_the_service_and_no_torch():
    assert values("ARG")[1] == "EXTRAS=serve,openvino"
    assert [value for value in values("FROM") if "slim" not in value] == []


def test_the_base_image_has_a_python_that_is_tested():
    (classifier,) = re.findall(r"PYTHON=(.*)", values("ARG")[0])
    assert f"Programming Language :: Python :: {classifier}\n" in (ROOT / "setup.cfg").read_text()


def test_data_and_models_are_volumes_that_anybody_may_write_to():
    assert [json.loads(value) for value in values("VOLUME")] == [["/data", "/models"]]
    assert "mkdir -m 1777 /data /models" in values("RUN")[-1]
    written = {name: image_environment()[name] for name in ("HOME", "HF_HOME", "T2I_URI")}
    assert written == {"HOME": "/tmp", "HF_HOME": "/models", "T2I_URI": "/data/milvus.db"}


def test_the_build_sees_the_package_and_nothing_that_is_private(tmp_path):
    context(tmp_path / "context")
    found = {path.name for path in (tmp_path / "context").iterdir()}
    assert found == {
        *("pyproject.toml", "setup.cfg", "constraints.txt", "README.md", "LICENSE", "t2i_command.py"),
        "t2i_pipelines",
    }
    assert not list((tmp_path / "context").rglob("__pycache__"))
    assert (tmp_path / "context/t2i_pipelines/encoders/t2i_mini/visual/model.onnx").is_file()


def test_compose_keeps_to_its_schema():
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_shuts_the_service_in():
    service = COMPOSE["services"]["t2i"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp", "/data"]
    assert "user" not in service
    assert "privileged" not in service
    pictures, models = service["volumes"]
    assert (pictures["target"], pictures["read_only"]) == (image_environment()["T2I_ROOT"], True)
    assert models == "models:/models"


def test_compose_publishes_the_service_to_this_machine_and_milvus_to_nobody():
    (published,) = COMPOSE["services"]["t2i"]["ports"]
    assert published == "127.0.0.1:${PORT:-8000}:" + image_environment()["T2I_PORT"]
    assert "ports" not in COMPOSE["services"]["milvus"]


def test_compose_waits_for_milvus_and_has_no_key_of_its_own():
    service = COMPOSE["services"]["t2i"]
    assert service["depends_on"] == {"milvus": {"condition": "service_healthy"}}
    assert service["environment"]["T2I_URI"] == "http://milvus:19530"
    assert service["environment"][KEY_VARIABLE].startswith("${T2I_API_KEY:?")


def test_compose_mounts_only_what_it_declares():
    named = {
        volume.partition(":")[0]
        for service in COMPOSE["services"].values()
        for volume in service["volumes"]
        if isinstance(volume, str)
    }
    assert named == COMPOSE["volumes"].keys()
    configs = {
        one["source"] for service in COMPOSE["services"].values() for one in service.get("configs", ())
    }
    assert configs == COMPOSE["configs"].keys()
    etcd = COMPOSE["services"]["milvus"]
    assert etcd["configs"][0]["target"] == etcd["environment"]["ETCD_CONFIG_PATH"]
    assert yaml.safe_load(COMPOSE["configs"]["etcd"]["content"])["auto-compaction-mode"] == "revision"


@pytest.mark.parametrize("version", OF_KUBERNETES)
@pytest.mark.parametrize("document", MANIFESTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_manifests_keep_to_the_schema_of_kubernetes(document, version):
    assert kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_of_a_manifest_would_be_found():
    wrong = yaml.safe_load(yaml.safe_dump(manifest("Deployment")))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinessprobe"):
        kubernetes_validate.validate(wrong, OF_KUBERNETES[-1], strict=True)


def pod():
    return manifest("Deployment")["spec"]["template"]["spec"]


def container():
    (only,) = pod()["containers"]
    return only


def test_the_pod_keeps_to_the_restricted_standard_of_kubernetes():
    # kubernetes.io/docs/concepts/security/pod-security-standards, "Restricted"; and a root that is read-only
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {next(iter(one.keys() - {"name"})) for one in pod()["volumes"]} == {
        "persistentVolumeClaim",
        "emptyDir",
    }
    assert pod()["automountServiceAccountToken"] is False
    user = pod()["securityContext"]
    assert f"{user['runAsUser']}:{user['runAsGroup']}" == values("USER")[0]


def test_the_pod_may_write_where_the_image_writes():
    writable = {one["mountPath"] for one in container()["volumeMounts"] if not one.get("readOnly")}
    assert writable == {"/models", "/data", "/tmp"}
    assert {one["name"] for one in container()["volumeMounts"]} == {one["name"] for one in pod()["volumes"]}
    (pictures,) = (one for one in container()["volumeMounts"] if one.get("readOnly"))
    assert pictures["mountPath"] == image_environment()["T2I_ROOT"]


def test_manifests_name_only_what_there_is():
    assert container()["envFrom"] == [{"configMapRef": {"name": manifest("ConfigMap")["metadata"]["name"]}}]
    claims = {
        one["persistentVolumeClaim"]["claimName"]
        for one in pod()["volumes"]
        if "persistentVolumeClaim" in one
    }
    assert claims == {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "PersistentVolumeClaim"}
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert manifest("Service")["spec"]["selector"].items() <= labels.items()
    assert manifest("Deployment")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (port,) = container()["ports"]
    assert str(port["containerPort"]) == image_environment()["T2I_PORT"] == values("EXPOSE")[0]
    assert manifest("Service")["spec"]["ports"][0]["targetPort"] == port["name"]
    assert container()["image"] == COMPOSE["services"]["t2i"]["image"]


def test_the_key_comes_from_a_secret_and_no_manifest_holds_one():
    (key,) = (one for one in container()["env"] if one["name"] == KEY_VARIABLE)
    assert key["valueFrom"]["secretKeyRef"] == {"name": "t2i", "key": "api-key"}
    assert "Secret" not in {one["kind"] for one in MANIFESTS}
    assert f"{KEY_VARIABLE}=" not in WHOLE


def test_a_service_of_that_name_does_not_set_the_port():
    # Kubernetes gives pods T2I_PORT=tcp://... for a service called t2i
    assert manifest("Service")["metadata"]["name"] == "t2i"
    assert pod()["enableServiceLinks"] is False


def test_probes_ask_what_is_open_and_leave_time_for_a_download():
    probes = {name: container()[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: one["httpGet"]["path"] for name, one in probes.items()} == {
        "startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz",
    }  # fmt: skip
    assert {one["httpGet"]["port"] for one in probes.values()} == {"http"}
    startup = probes["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 600
    assert "--start-period=10m" in values("HEALTHCHECK")[0]


def test_what_was_accepted_is_finished_before_anybody_is_killed():
    assert pod()["terminationGracePeriodSeconds"] >= ServeOptions().drain + 5
    assert float(COMPOSE["services"]["t2i"]["stop_grace_period"].rstrip("s")) > ServeOptions().drain
