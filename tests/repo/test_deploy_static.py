"""Dockerfile, compose.yaml and the manifests, read by their own linters and schemas; no engine is needed."""

import json
import re
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from click import Context
from image_by_hand import context, steps
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
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
        **{one["name"]: "" for name in DEPLOYMENTS for one in container(name)["env"]},
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


def test_base_images_are_pinned_by_digest():
    (base,) = values("ARG")
    assert re.fullmatch(r"PYTHON=python:3\.\d+\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert values("FROM") == ["${PYTHON} AS build", "${PYTHON}"]
    assert re.fullmatch(
        r"milvusdb/milvus:v2\.\d+\.\d+@sha256:[0-9a-f]{64}", COMPOSE["services"]["milvus"]["image"]
    )


def test_the_base_image_has_a_python_that_is_tested():
    (version,) = re.findall(r"PYTHON=python:(\d+\.\d+)", values("ARG")[0])
    assert f"Programming Language :: Python :: {version}\n" in (ROOT / "setup.cfg").read_text()
    assert f"--python-version {version} " in (ROOT / "Makefile").read_text()


def test_what_is_installed_is_a_layer_before_the_projects_own_code():
    before = steps()[: steps().index(("COPY", ". ."))]
    assert before[-2:-1] == [("COPY", "deploy/requirements.txt requirements.txt")]
    assert before[-1][0] == "RUN"
    assert "--require-hashes --requirement requirements.txt" in before[-1][1]
    after = steps()[len(before) + 1]
    assert "install --no-cache-dir --no-deps --no-build-isolation ." in after[1]


def locked():
    """What the image installs: name -> version, and how many hashes each has."""
    found, hashes = {}, {}
    for entry in (ROOT / "deploy/requirements.txt").read_text().replace("\\\n", "").splitlines():
        if entry and not entry.startswith("#"):
            requirement, *options = entry.split()
            name, version = requirement.split("==")
            found[canonicalize_name(name)] = version
            hashes[name] = len([one for one in options if re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one)])
    return found, hashes


def test_all_that_the_image_installs_has_hashes_and_is_what_setup_cfg_asks_for():
    found, hashes = locked()
    assert min(hashes.values()) >= 1
    settings = ConfigParser(comment_prefixes="#")
    settings.read(ROOT / "setup.cfg")
    asked = settings["options"]["install_requires"].splitlines()
    for extra in ("serve", "openvino"):
        asked += settings["options.extras_require"][extra].splitlines()
    limits = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    wanted = [Requirement(line) for line in asked if line]
    assert {canonicalize_name(one.name) for one in wanted} <= found.keys()
    for one in wanted + [Requirement(line) for line in limits]:
        if (name := canonicalize_name(one.name)) in found:
            assert found[name] in one.specifier, f"{one}; run make lock"
    assert "torch" not in found
    assert found["setuptools"] in Requirement(build_requirement()).specifier


def build_requirement():
    (one,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return one


def test_nothing_that_the_image_needs_is_left_to_pip():
    """Of the packages that are here in the very version that the image has: all that they need is there."""
    found, _ = locked()
    known = 0
    for name, version in found.items():
        with suppress(PackageNotFoundError):
            package = distribution(name)
            if package.version != version:
                continue
            known += 1
            for line in package.requires or ():
                need = Requirement(line)
                if need.marker is None or need.marker.evaluate({"extra": "", "python_version": "3.11"}):
                    assert found[canonicalize_name(need.name)] in need.specifier, f"{name}: {line}"
    assert known > 20


def test_data_and_models_are_volumes_that_anybody_may_write_to():
    assert [json.loads(value) for value in values("VOLUME")] == [["/data", "/models"]]
    assert "mkdir -m 1777 /data /models" in values("RUN")[-1]
    written = {name: image_environment()[name] for name in ("HOME", "HF_HOME", "T2I_URI")}
    assert written == {"HOME": "/tmp", "HF_HOME": "/models", "T2I_URI": "/data/milvus.db"}


def test_the_build_sees_the_package_and_nothing_that_is_private(tmp_path):
    context(tmp_path / "context")
    found = {path.name for path in (tmp_path / "context").iterdir()}
    assert found == {
        *("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "t2i_command.py"),
        *("t2i_pipelines", "deploy"),
    }
    assert [path.name for path in (tmp_path / "context/deploy").iterdir()] == ["requirements.txt"]
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


def pod(name="t2i"):
    return manifest("Deployment", name)["spec"]["template"]["spec"]


def container(name="t2i"):
    (only,) = pod(name)["containers"]
    return only


DEPLOYMENTS = ["t2i", "t2i-search"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_pod_keeps_to_the_restricted_standard_of_kubernetes(name):
    # kubernetes.io/docs/concepts/security/pod-security-standards, "Restricted"; and a root that is read-only
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {next(iter(one.keys() - {"name"})) for one in pod(name)["volumes"]} == {
        "persistentVolumeClaim",
        "emptyDir",
    }
    assert pod(name)["automountServiceAccountToken"] is False
    user = pod(name)["securityContext"]
    assert f"{user['runAsUser']}:{user['runAsGroup']}" == values("USER")[0]


def test_the_pod_may_write_where_the_image_writes():
    writable = {one["mountPath"] for one in container()["volumeMounts"] if not one.get("readOnly")}
    assert writable == {"/models", "/data", "/tmp"}
    assert {one["name"] for one in container()["volumeMounts"]} == {one["name"] for one in pod()["volumes"]}
    (pictures,) = (one for one in container()["volumeMounts"] if one.get("readOnly"))
    assert pictures["mountPath"] == image_environment()["T2I_ROOT"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_manifests_name_only_what_there_is(name):
    assert container(name)["envFrom"] == [
        {"configMapRef": {"name": manifest("ConfigMap")["metadata"]["name"]}}
    ]
    claims = {
        one["persistentVolumeClaim"]["claimName"]
        for one in pod(name)["volumes"]
        if "persistentVolumeClaim" in one
    }
    assert claims == {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "PersistentVolumeClaim"}
    labels = manifest("Deployment", name)["spec"]["template"]["metadata"]["labels"]
    assert manifest("Service", name)["spec"]["selector"].items() <= labels.items()
    assert manifest("Deployment", name)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (port,) = container(name)["ports"]
    assert str(port["containerPort"]) == image_environment()["T2I_PORT"] == values("EXPOSE")[0]
    assert manifest("Service", name)["spec"]["ports"][0]["targetPort"] == port["name"]
    assert container(name)["image"] == COMPOSE["services"]["t2i"]["image"]


def test_each_service_and_policy_has_the_pods_of_its_own_deployment():
    labels = {
        name: manifest("Deployment", name)["spec"]["template"]["metadata"]["labels"] for name in DEPLOYMENTS
    }
    for one in MANIFESTS:
        spec = one.get("spec", {})
        selector = {
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
        }.get(one["kind"])
        if selector is not None:
            chosen = [name for name, has in labels.items() if selector(spec).items() <= has.items()]
            assert chosen == [one["metadata"]["name"]], one["kind"]


def test_inserts_have_one_process_and_searches_as_many_as_their_load_asks_for():
    assert manifest("Deployment")["spec"]["replicas"] == 1
    assert "replicas" not in manifest("Deployment", "t2i-search")["spec"], "the autoscaler would be reset"
    scaler = manifest("HorizontalPodAutoscaler", "t2i-search")["spec"]
    assert scaler["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "t2i-search",
    }
    assert [one["resource"]["name"] for one in scaler["metrics"]] == ["cpu"]
    assert "cpu" in container("t2i-search")["resources"]["requests"], "a share of nothing is not known"
    allowed = manifest("PodDisruptionBudget", "t2i-search")["spec"]["maxUnavailable"]
    assert 0 < allowed < scaler["minReplicas"], "a node can be drained, and one is always there"


def test_replicas_that_search_write_nothing_that_is_shared():
    given = {one["name"]: one.get("value") for one in container("t2i-search")["env"]}
    assert given["T2I_READ_ONLY"] == "true"
    assert given["HF_HUB_OFFLINE"] == "1"
    shared = {one["name"] for one in pod("t2i-search")["volumes"] if "persistentVolumeClaim" in one}
    for mount in container("t2i-search")["volumeMounts"]:
        assert bool(mount.get("readOnly")) is (mount["name"] in shared)
    (models,) = (one for one in MANIFESTS if one["metadata"]["name"] == "t2i-models")
    assert models["spec"]["accessModes"] == ["ReadWriteMany"], "the replicas are on other nodes"
    assert pod("t2i-search")["terminationGracePeriodSeconds"] >= float(given["T2I_DRAIN"]) + 5


def test_replicas_that_search_are_let_in_by_the_ingress_and_out_to_milvus_and_dns():
    policy = manifest("NetworkPolicy", "t2i-search")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (entrance,) = policy["ingress"]
    assert [next(iter(one)) for one in entrance["from"]] == ["namespaceSelector"]
    assert [one["port"] for one in entrance["ports"]] == [container("t2i-search")["ports"][0]["name"]]
    milvus, dns = policy["egress"]
    (port,) = milvus["ports"]
    assert manifest("ConfigMap")["data"]["T2I_URI"].endswith(f":{port['port']}")
    assert {one["port"] for one in dns["ports"]} == {53}
    assert all(one["to"] for one in policy["egress"]), "an empty list is everywhere"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_what_a_pod_writes_to_its_node_is_bounded(name):
    sizes = [one["emptyDir"].get("sizeLimit") for one in pod(name)["volumes"] if "emptyDir" in one]
    assert len(sizes) == 2
    assert all(re.fullmatch(r"\d+[MG]i", size) for size in sizes)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_key_comes_from_a_secret_and_no_manifest_holds_one(name):
    (key,) = (one for one in container(name)["env"] if one["name"] == KEY_VARIABLE)
    assert key["valueFrom"]["secretKeyRef"] == {"name": "t2i", "key": "api-key"}
    assert "Secret" not in {one["kind"] for one in MANIFESTS}
    assert f"{KEY_VARIABLE}=" not in WHOLE


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_service_of_that_name_does_not_set_the_port(name):
    # Kubernetes gives pods T2I_PORT=tcp://... for a service called t2i
    assert manifest("Service")["metadata"]["name"] == "t2i"
    assert pod(name)["enableServiceLinks"] is False


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_probes_ask_what_is_open_and_leave_time_for_a_download(name):
    probes = {probe: container(name)[probe] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe: one["httpGet"]["path"] for probe, one in probes.items()} == {
        "startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz",
    }  # fmt: skip
    assert {one["httpGet"]["port"] for one in probes.values()} == {"http"}
    startup = probes["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 600
    assert "--start-period=10m" in values("HEALTHCHECK")[0]


def test_what_was_accepted_is_finished_before_anybody_is_killed():
    assert pod()["terminationGracePeriodSeconds"] >= ServeOptions().drain + 5
    assert float(COMPOSE["services"]["t2i"]["stop_grace_period"].rstrip("s")) > ServeOptions().drain
