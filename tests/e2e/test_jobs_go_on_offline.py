"""A CronJob of a gateway fires there while the link is cut, over the turn of a minute; afterwards the cloud shows each run once,
and none was made twice (LOCAL-15, LOCAL-16, LOCAL-17)."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgecore.kinds import WRITE_CONFLICT
from kubeapi.kinds import CRON_JOB, JOB, POD
from tests.kit.gateway import gateway
from tests.kit.platform import Platform
from tests.kit.pods import container
from tests.kit.wait import eventually

NODE = "gw-1"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
Json = dict[str, Any]


def cron(folder: Path) -> Json:
    """Each run says its Job's name in one line of a file of the gateway."""
    name = {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}}
    main = container(
        command=("sh", "-c", "echo $JOB >> /runs/made; sync"),
        env=[{"name": "JOB", "valueFrom": name}],
        volumeMounts=[{"name": "runs", "mountPath": "/runs"}],
    )
    pods = {
        "restartPolicy": "Never",
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "containers": [main],
        "volumes": [{"name": "runs", "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"}}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick", "namespace": "default"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": pods}}}},
    }


def made(folder: Path) -> Counter[str]:
    file = folder / "made"
    return Counter(file.read_text().split()) if file.exists() else Counter()


async def jobs(platform: Platform) -> dict[str, Json]:
    found = await platform.kube.find(JOBS) or {"items": []}
    return {job["metadata"]["name"]: job for job in found["items"]}


def is_complete(job: Json) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Complete" and c["status"] == "True" for c in conditions)


@pytest.mark.timeout(180)
async def test_a_cron_job_fires_at_the_gateway_and_the_cloud_shows_each_run_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    async with Platform(tmp_path) as platform:
        await platform.start_cloud()
        async with gateway(platform, tmp_path / "host", NODE, subnet="10.97.0.0/16") as edge:
            await platform.kube.apply(cron(runs))
            await eventually(lambda: "tick" in json.dumps(edge.objects(CRON_JOB)))
            edge.cut()

            await eventually(lambda: any(p["metadata"]["name"].startswith("tick-") for p in edge.objects(POD)), 75)
            await eventually(lambda: made(runs), 20)
            offline = set(made(runs))
            here = [job["metadata"]["name"] for job in edge.objects(JOB)]
            edge.mend()
            await edge.connected()

            async def shown() -> bool:
                found = await jobs(platform)
                return all(name in found and is_complete(found[name]) for name in offline)

            await eventually(shown, 40)
            counts = {name: job["status"]["succeeded"] for name, job in (await jobs(platform)).items()}
            assert offline <= set(here)
            assert {name: made(runs)[name] for name in offline} == dict.fromkeys(offline, 1)
            assert {name: counts[name] for name in offline} == dict.fromkeys(offline, 1)
            assert edge.objects(WRITE_CONFLICT) == []
