"""Strict JSON schemas of the custom resources that infra/ uses: KubeRay's v1, Prometheus' operator.

Written from their published field references (KubeRay 1.7), with the rules that KubeRay's own
validation adds. Pod templates are `{}` here: they are checked against Kubernetes' own schema.
"""

from __future__ import annotations

from typing import Any

POD: dict[str, Any] = {"type": "object", "required": ["spec"]}
STRING = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
LABELS = {
    "type": "object",
    "propertyNames": {"pattern": r"^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"},
    "additionalProperties": {"pattern": r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"},
}
# Resources come from the containers; labels have a field of their own.
START_PARAMS = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "not": {"anyOf": [{"required": [key]} for key in ("labels", "resources", "memory")]},
}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with these keys and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


RAY_CLUSTER_SPEC = closed(
    ["rayVersion", "headGroupSpec", "workerGroupSpecs"],
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=closed(["mode"], mode={"enum": ["disabled", "token"]}, secretName=STRING),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=closed(
        [],
        version={"enum": ["v1", "v2"]},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=COUNT,
        resources={"type": "object"},
        image=STRING,
        imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        securityContext={"type": "object"},
        volumeMounts={"type": "array"},
        env={"type": "array"},
        envFrom={"type": "array"},
    ),
    suspend={"type": "boolean"},
    managedBy=STRING,
    headServiceAnnotations=STRINGS,
    gcsFaultToleranceOptions={"type": "object"},
    headGroupSpec=closed(
        ["rayStartParams", "template"],
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        headService={"type": "object"},
        enableIngress={"type": "boolean"},
        rayStartParams=START_PARAMS,
        labels=LABELS,
        resources=STRINGS,
        template=POD,
    ),
    workerGroupSpecs={
        "type": "array",
        "minItems": 1,
        "items": closed(
            ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
            groupName={"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            numOfHosts={"type": "integer", "minimum": 1},
            idleTimeoutSeconds=COUNT,
            suspend={"type": "boolean"},
            rayStartParams=START_PARAMS,
            labels=LABELS,
            resources=STRINGS,
            scaleStrategy={"type": "object"},
            template=POD,
        ),
    },
)
RAY_JOB_SPEC = closed(
    ["entrypoint", "rayClusterSpec"],
    entrypoint=STRING,
    rayClusterSpec=RAY_CLUSTER_SPEC,
    suspend={"type": "boolean"},
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterPodTemplate=POD,
    submitterConfig=closed([], backoffLimit=COUNT),
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=COUNT,
    metadata=STRINGS,
    jobId=STRING,
    runtimeEnvYAML=STRING,
    clusterSelector=STRINGS,
    deletionStrategy={"type": "object"},
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=STRING,
    managedBy=STRING,
)
# A suspended job must be one whose cluster goes away; nobody may ask for both ways of deleting.
RAY_JOB_SPEC["allOf"] = [
    {
        "if": {"properties": {"suspend": {"const": True}}, "required": ["suspend"]},
        "then": {
            "properties": {"shutdownAfterJobFinishes": {"const": True}},
            "required": ["shutdownAfterJobFinishes"],
        },
    },
    {"not": {"required": ["deletionStrategy", "shutdownAfterJobFinishes"]}},
]
SELECTOR = closed(
    [],
    matchLabels=STRINGS,
    matchExpressions={
        "type": "array",
        "items": closed(
            ["key", "operator"],
            key=STRING,
            operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            values={"type": "array", "items": STRING},
        ),
    },
)
DURATION = {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d))+$"}
POD_MONITOR_SPEC = closed(
    ["selector", "podMetricsEndpoints"],
    selector=SELECTOR,
    namespaceSelector={"type": "object"},
    podMetricsEndpoints={
        "type": "array",
        "minItems": 1,
        "items": closed(
            ["port"],
            port=STRING,
            path=STRING,
            interval=DURATION,
            scrapeTimeout=DURATION,
            relabelings={
                "type": "array",
                "items": closed(
                    [],
                    sourceLabels={"type": "array", "items": STRING},
                    targetLabel=STRING,
                    regex=STRING,
                    replacement=STRING,
                    action=STRING,
                ),
            },
        ),
    },
)
PROMETHEUS_RULE_SPEC = closed(
    ["groups"],
    groups={
        "type": "array",
        "minItems": 1,
        "items": closed(
            ["name", "rules"],
            name=STRING,
            interval=DURATION,
            rules={
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["alert", "expr", "labels", "annotations"],
                    "properties": {
                        "alert": {"type": "string", "pattern": "^Nightrank[A-Za-z]+$"},
                        "expr": STRING,
                        "for": DURATION,
                        "labels": closed(["severity"], severity={"enum": ["page", "ticket"]}),
                        "annotations": closed(
                            ["summary", "runbook"],
                            summary=STRING,
                            runbook={"type": "string", "pattern": r"^infra/RUNBOOK\.md#[a-z]+$"},
                        ),
                    },
                },
            },
        ),
    },
)


def resource(api: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A whole custom resource around its spec; names are DNS-1035 labels of KubeRay's length."""
    metadata = {
        "type": "object",
        "required": ["name", "namespace"],
        "properties": {"name": {"pattern": r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$"}},
    }
    return closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": api},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


SCHEMAS = {
    "RayCluster": resource("ray.io/v1", "RayCluster", RAY_CLUSTER_SPEC),
    "RayJob": resource("ray.io/v1", "RayJob", RAY_JOB_SPEC),
    "PodMonitor": resource("monitoring.coreos.com/v1", "PodMonitor", POD_MONITOR_SPEC),
    "PrometheusRule": resource("monitoring.coreos.com/v1", "PrometheusRule", PROMETHEUS_RULE_SPEC),
}
