"""Every manifest as strictly as can be without a cluster: schemas, references, security, sizes."""

from __future__ import annotations

import copy
import ipaddress
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from nightrank.config.file import load_config
from tests.support.custom_resources import SCHEMAS
from tests.support.manifests import INFRA, Manifest, one, pod_templates, render

KUBERNETES = "1.33"
BOTH = ("UDP", "TCP")
KINDS = ("cpu", "gpu", "gpu-index")
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}
ROOT = Path(__file__).resolve().parents[2]


def check(manifest: Manifest) -> None:
    """Raises where the API server would refuse the object, or silently drop a misspelt key."""
    if schema := SCHEMAS.get(manifest["kind"]):
        jsonschema.validate(manifest, schema)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    for _, template in pod_templates([manifest]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}}
        kubernetes_validate.validate({**pod, "template": template}, KUBERNETES, strict=True)


def size(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize("folder", ["base", "aws"])
def test_every_object_fits_its_schema(folder: str) -> None:
    rendered = render(folder)
    if folder == "base":  # Its RayJob gets its cluster from the overlay.
        rendered = [m for m in rendered if m["kind"] != "RayJob"]
    assert len(rendered) > 12
    for manifest in rendered:
        check(manifest)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("CronJob", ("spec", "concurencyPolicy"), "Forbid"),
        ("RayCluster", ("spec", "autoscalerOptions", "version"), "v3"),
        ("RayCluster", ("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ("RayCluster", ("spec", "headGroupSpec", "template", "spec", "imagePulSecrets"), []),
        ("RayJob", ("spec", "shutdownAfterJobFinishes"), False),
        ("RayJob", ("spec", "rayClusterSpec", "workerGroupSpecs"), []),
        ("PodMonitor", ("spec", "podMetricsEndpoint"), []),
    ],
)
def test_the_check_refuses_what_the_api_server_would(
    manifests: list[Manifest], kind: str, path: tuple[str, ...], value: Any
) -> None:
    broken: Any = copy.deepcopy(next(m for m in manifests if m["kind"] == kind))
    where = broken
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(broken)


def test_the_nightly_cluster_has_the_shape_of_the_standing_one(manifests: list[Manifest]) -> None:
    job, cluster = one(manifests, "RayJob"), one(manifests, "RayCluster")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    assert head["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}


def test_ray_is_the_version_that_the_project_pins_and_asks_for_a_token(
    manifests: list[Manifest],
) -> None:
    spec = one(manifests, "RayCluster")["spec"]
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints/py311.txt").read_text(), re.M)
    assert pinned and spec["rayVersion"] == pinned.group(1)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2"


def test_each_pool_has_its_group_and_the_head_takes_no_units(manifests: list[Manifest]) -> None:
    spec = one(manifests, "RayCluster")["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    pools = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert {g["labels"]["nightrank.io/pool"] for g in pools.values()} == {
        *("general", "index", "model")
    }
    for name, group in pools.items():
        ray = group["template"]["spec"]["containers"][0]
        gpus = ray["resources"]["limits"].get("nvidia.com/gpu")
        assert (gpus == "1") == name.startswith("gpu-")
        images = {"gpu-index": "-gpu-index", "gpu-rerank": "-gpu", "cpu": "-cpu"}
        assert ray["image"].endswith(images[name])
        assert group["minReplicas"] == 0 < group["maxReplicas"]


def test_the_nightly_config_is_valid_and_lies_on_s3(manifests: list[Manifest]) -> None:
    config = load_config(str(INFRA / "kubernetes/aws/config.yaml"))
    places = (config.root, config.corpus.path, config.queries.path)
    assert all(place.startswith("s3://example-nightrank-") for place in places)
    # Drained by its own budget, before Kubernetes would cut it off.
    minute, hour, *_ = one(manifests, "CronJob", "nightrank-nightly")["spec"]["schedule"].split()
    assert config.budget.until
    ends = [int(part) for part in config.budget.until.split(":")]
    window = (ends[0] - int(hour)) * 3600 + (ends[1] - int(minute)) * 60
    assert 0 < window < one(manifests, "RayJob")["spec"]["activeDeadlineSeconds"]
    assert config.cluster.executor == "ray" and config.cluster.address is None
    groups = one(manifests, "RayCluster")["spec"]["workerGroupSpecs"]
    limit = {g["groupName"]: g["maxReplicas"] for g in groups}
    pools = config.cluster.pools
    assert pools["general"].workers <= limit["cpu"] * 16
    assert (pools["index"].workers, pools["index"].gpus) == (limit["gpu-index"], 1)
    assert (pools["model"].workers, pools["model"].gpus) == (limit["gpu-rerank"], 1)


def test_pods_are_unprivileged_bounded_and_probed(manifests: list[Manifest]) -> None:
    templates = dict(pod_templates(manifests))
    assert len(templates) == 13
    for where, template in templates.items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 9999
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "hostPath" not in str(pod["volumes"]) and not pod.get("hostNetwork")
        may_call_the_api = (
            pod["serviceAccountName"] == "nightrank-scheduler" or "headGroup" in where
        )
        assert pod["automountServiceAccountToken"] == may_call_the_api, where
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            limits = container["resources"]["limits"]
            requests = container["resources"]["requests"]
            assert limits["memory"] == requests["memory"] and {"cpu"} <= set(requests)
            served = container.get("ports")
            probes = {"readinessProbe", "livenessProbe"} & set(container)
            assert len(probes) == (2 if served else 0), where


def test_what_a_pod_mounts_exists_and_fits_its_limits(manifests: list[Manifest]) -> None:
    config_maps = {m["metadata"]["name"]: m["data"] for m in manifests if m["kind"] == "ConfigMap"}
    accounts = {m["metadata"]["name"] for m in manifests if m["kind"] == "ServiceAccount"}
    for where, template in pod_templates(manifests):
        pod = template["spec"]
        assert pod["serviceAccountName"] in accounts
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        used: set[str] = set()
        for container in pod["containers"]:
            mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
            assert {"/tmp", "/scratch"} <= set(mounts), where  # The root file system is read-only.
            used |= set(mounts.values())
        assert used == set(volumes), where
        maps = [v["configMap"]["name"] for v in volumes.values() if "configMap" in v]
        assert all(name in config_maps for name in maps)
        if not container["name"].startswith("ray-") or container["name"] == "ray-job-submitter":
            continue
        limits = container["resources"]["limits"]
        shared = volumes["shm"]["emptyDir"]
        assert shared["medium"] == "Memory" and size(shared["sizeLimit"]) < size(limits["memory"])
        disks = sum(size(volumes[name]["emptyDir"]["sizeLimit"]) for name in ("tmp", "scratch"))
        assert disks <= size(limits["ephemeral-storage"])
    spec = one(manifests, "RayCluster")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        store = int(group["rayStartParams"]["object-store-memory"])
        mounted = {v["name"]: v for v in group["template"]["spec"]["volumes"]}["shm"]
        assert store < size(mounted["emptyDir"]["sizeLimit"])


def test_images_are_pinned_and_of_one_registry(manifests: list[Manifest]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {c["image"] for _, t in pod_templates(manifests) for c in t["spec"]["containers"]}
    assert images == {f"registry.example.com/nightrank:{version}-{kind}" for kind in KINDS}


def test_one_night_runs_at_a_time_and_only_what_is_transient_is_tried_again(
    manifests: list[Manifest],
) -> None:
    cron = one(manifests, "CronJob", "nightrank-nightly")["spec"]
    job = cron["jobTemplate"]["spec"]
    template = one(manifests, "RayJob")
    assert cron["concurrencyPolicy"] == "Forbid" and cron["timeZone"] == "Etc/UTC"
    evicted, failed = job["podFailurePolicy"]["rules"]
    assert evicted["action"] == "Ignore"
    assert failed["onExitCodes"]["operator"] == "NotIn" and failed["onExitCodes"]["values"] == [9]
    container = job["template"]["spec"]["containers"][0]
    assert failed["onExitCodes"]["containerName"] == container["name"]
    assert container["args"] == [template["metadata"]["name"]]
    # The schedule outwaits the job it waits for.
    assert job["activeDeadlineSeconds"] > template["spec"]["activeDeadlineSeconds"]
    assert template["spec"]["suspend"] and template["spec"]["backoffLimit"] == 0
    script = one(manifests, "ConfigMap", "nightrank-schedule")["data"]["nightly.py"]
    assert script == (INFRA / "kubernetes/base/nightly.py").read_text()


def test_what_deletes_is_an_account_of_its_own_and_waits_to_be_let_go(
    manifests: list[Manifest],
) -> None:
    cron = one(manifests, "CronJob", "nightrank-gc")["spec"]
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    assert cron["suspend"] and cron["concurrencyPolicy"] == "Forbid"
    assert pod["containers"][0]["args"][:2] == ["nightrank", "gc"]
    others = [
        t for _, t in pod_templates(manifests) if t["spec"]["containers"] != pod["containers"]
    ]
    assert pod["serviceAccountName"] == "nightrank-gc"
    assert all(t["spec"]["serviceAccountName"] != "nightrank-gc" for t in others)


def test_the_scheduler_may_make_ray_jobs_and_nothing_else(manifests: list[Manifest]) -> None:
    binding = one(manifests, "RoleBinding")
    assert [s["name"] for s in binding["subjects"]] == ["nightrank-scheduler"]
    assert binding["subjects"][0]["namespace"] == binding["metadata"]["namespace"] == "nightrank"
    rules = one(manifests, "Role")["rules"]
    wanted = {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "list", "create"]}
    assert rules == [wanted]


def test_prometheus_finds_a_port_called_metrics_on_every_pod_it_selects(
    manifests: list[Manifest],
) -> None:
    spec = one(manifests, "PodMonitor")["spec"]
    port = spec["podMetricsEndpoints"][0]["port"]
    component = "app.kubernetes.io/component"
    selected = spec["selector"]["matchExpressions"][0]["values"]
    found = set()
    for _, template in pod_templates(manifests):
        labels = template.get("metadata", {}).get("labels", {})
        if labels.get(component) in selected:
            assert labels.items() >= spec["selector"]["matchLabels"].items()
            assert port in [p["name"] for p in template["spec"]["containers"][0]["ports"]]
            found.add(labels[component])
    assert found == set(selected)


def test_the_network_lets_in_who_must_come_in(manifests: list[Manifest]) -> None:
    ingress = one(manifests, "NetworkPolicy", "nightrank-ingress")["spec"]["ingress"]
    ports = {rule["port"] for peer in ingress for rule in peer.get("ports", [])}
    assert ports == {8265, 8080, 9464}
    open_to_all = [peer for peer in ingress if not peer.get("from")]
    assert open_to_all == []


def reaches(egress: list[dict[str, Any]], address: str, port: int, protocol: str) -> bool:
    """Whether a policy lets pods out to an address that belongs to no pod."""
    host = ipaddress.ip_address(address)
    for rule in egress:
        if {"port": port, "protocol": protocol} not in rule.get("ports", []):
            continue
        for block in (to["ipBlock"] for to in rule["to"] if "ipBlock" in to):
            outside = (ipaddress.ip_network(each) for each in block.get("except", []))
            if host in ipaddress.ip_network(block["cidr"]) and not any(host in o for o in outside):
                return True
    return False


@pytest.mark.parametrize("folder", ["base", "aws"])
def test_the_network_lets_out_to_names_stores_and_identities_alone(folder: str) -> None:
    policy = one(render(folder), "NetworkPolicy", "nightrank-egress")["spec"]
    egress, on_aws = policy["egress"], folder == "aws"
    kube_system = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    names = [rule for rule in egress if {"namespaceSelector": kube_system} in rule["to"]]
    assert [rule["ports"] for rule in names] == [[{"port": 53, "protocol": p} for p in BOTH]]
    for protocol in BOTH:
        # NodeLocal DNSCache, which is no pod of kube-system but a process of the node.
        assert reaches(egress, "169.254.20.10", 53, protocol)
        # What it takes over: the DNS service of EKS, in either of its ranges.
        for service in ("10.100.0.10", "172.20.0.10"):
            assert reaches(egress, service, 53, protocol) == on_aws
        assert not reaches(egress, "8.8.8.8", 53, protocol)
    assert reaches(egress, "52.218.0.1", 443, "TCP")
    assert reaches(egress, "169.254.170.23", 80, "TCP") == on_aws  # Pod Identity.
    for port in (53, 80, 443):  # The instance's metadata, with the node's own role.
        assert not reaches(egress, "169.254.169.254", port, "TCP")


def test_no_consolidation_takes_a_head_or_who_waits_for_one(manifests: list[Manifest]) -> None:
    kept = {
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }
    budget = one(manifests, "PodDisruptionBudget")["spec"]
    # Of pods that an operator owns Kubernetes counts this one form alone.
    assert set(budget) == {"minAvailable", "selector"} and isinstance(budget["minAvailable"], int)
    wanted, heads = budget["selector"]["matchLabels"], 0
    for where, template in pod_templates(manifests):
        labels = template.get("metadata", {}).get("labels", {})
        annotations = template.get("metadata", {}).get("annotations", {})
        is_head = "headGroup" in where
        heads += is_head
        assert (labels.items() >= wanted.items()) == is_head, where
        drives = is_head or "submitter" in where or "nightrank-nightly" in where.partition(".")[0]
        is_worker = "workerGroup" in where
        assert (annotations.items() >= kept.items()) == (drives and not is_worker), where
    assert 1 < heads < budget["minAvailable"]


def test_where_there_is_no_spot_or_no_first_choice_of_gpu_there_is_another(
    manifests: list[Manifest],
) -> None:
    for group in one(manifests, "RayCluster")["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert "nodeSelector" not in pod, "a selector has no second choice"
        affinity = pod["affinity"]["nodeAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        allowed = {e["key"]: e["values"] for e in term["matchExpressions"]}
        assert set(allowed["karpenter.sh/capacity-type"]) == {"spot", "on-demand"}
        gpus = allowed.get("karpenter.k8s.aws/instance-gpu-name")
        if group["groupName"] != "gpu-rerank":
            assert gpus is None  # Any GPU, or none at all.
            continue
        preferred = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
        (first,) = preferred[0]["preference"]["matchExpressions"]
        assert len(gpus) >= 2 and set(first["values"]) < set(gpus)


def test_what_is_published_is_exported_after_the_night_by_a_role_of_its_own(
    manifests: list[Manifest],
) -> None:
    export, night = (one(manifests, "CronJob", f"nightrank-{n}") for n in ("export", "nightly"))
    pod = export["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "nightrank-export" and not export["spec"].get("suspend")
    (container,) = pod["containers"]
    target = container["args"][container["args"].index("--hive") + 1]
    policy = json.loads((INFRA / "iam/export.json").read_text())
    writable = [s["Resource"] for s in policy["Statement"] if "s3:PutObject" in s["Action"]]
    assert writable == [target.replace("s3://", "arn:aws:s3:::") + "*"]
    # Once the night is over, by the clock of both.
    assert export["spec"]["timeZone"] == night["spec"]["timeZone"] == "Etc/UTC"
    minute, hour, *rest = export["spec"]["schedule"].split()
    until = load_config(str(INFRA / "kubernetes/aws/config.yaml")).budget.until
    assert until and until < f"{int(hour):02d}:{int(minute):02d}" and rest == ["*"] * 3
