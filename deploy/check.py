"""What lies in deploy/, held against the programs that read it: `cargo xtask peers deploy`.

Kubernetes' own schemas (all versions that still get fixes, and the oldest with a `sleep` before the end), hadolint, and systemd
where it is installed. Nothing is asked of a network or a cluster.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

DEPLOY = Path(__file__).parent
# `sleep` in a hook is on by default since 1.30.
VERSIONS = ["1.30", "1.34", "1.35", "1.36", "1.37"]
# Kinds that no schema of Kubernetes' knows.
OTHERS = {"Kustomization": "kustomize.config.k8s.io/v1beta1", "ScaledObject": "keda.sh/v1alpha1"}

failures = 0


def check(what, errors):
    global failures
    failures += bool(errors)
    print(f"{'FAILED' if errors else 'ok'}: {what}")
    for error in errors:
        print(f"    {error}")


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests():
    found = {}
    for path in sorted(DEPLOY.glob("kubernetes/**/*.yaml")):
        for document in documents(path):
            kind, errors = document["kind"], []
            found[kind] = document
            if kind in OTHERS:
                if document["apiVersion"] != OTHERS[kind]:
                    errors.append(f"apiVersion is {document['apiVersion']}, not {OTHERS[kind]}")
                check(f"{path.relative_to(DEPLOY)}: {kind}", errors)
                continue
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    errors.append(f"{version}: {error.path}: {error.message}")
            check(f"{path.relative_to(DEPLOY)}: {kind}, Kubernetes {', '.join(VERSIONS)}", errors)
    return found


def names(found):
    """What one manifest says of another."""
    deployment = found["Deployment"]["spec"]
    pod, errors = deployment["template"]["spec"], []
    labels = deployment["template"]["metadata"]["labels"]
    for kind, selector in [
        ("Deployment", deployment["selector"]["matchLabels"]),
        ("PodDisruptionBudget", found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
        ("Service", found["Service"]["spec"]["selector"]),
    ]:
        if not selector.items() <= labels.items():
            errors.append(f"{kind} selects {selector}, pods have {labels}")
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    if claims != [found["PersistentVolumeClaim"]["metadata"]["name"]]:
        errors.append(f"pods claim {claims}")
    target = found["ScaledObject"]["spec"]["scaleTargetRef"]["name"]
    if target != found["Deployment"]["metadata"]["name"]:
        errors.append(f"what is scaled is {target}")
    (container,) = pod["containers"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    if mounts != {volume["name"] for volume in pod["volumes"]}:
        errors.append(f"volumes and mounts differ: {mounts}")
    drain = int(container["args"][container["args"].index("--drain-seconds") + 1])
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    if pod["terminationGracePeriodSeconds"] < sleep + drain + 5:
        errors.append(f"{pod['terminationGracePeriodSeconds']} s do not cover {sleep} s and a drain of {drain} s")
    check("kubernetes: names, mounts and times agree", errors)


def dockerfile():
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    check("Dockerfile: hadolint", (done.stdout + done.stderr).splitlines() if done.returncode else [])


def unit():
    if not shutil.which("systemd-analyze"):
        print("left out: systemd/halfbyte.service; systemd adds it")
        return
    text = (DEPLOY / "systemd/halfbyte.service").read_text()
    with tempfile.TemporaryDirectory() as folder:
        # The program need not be installed for its unit to be read.
        path = Path(folder, "halfbyte.service")
        path.write_text(text.replace("/usr/bin/halfbyte", shutil.which("true")))
        verify = ["systemd-analyze", "verify", "--man=no", path]
        done = subprocess.run(verify, capture_output=True, text=True)
        check("halfbyte.service: systemd-analyze verify", (done.stdout + done.stderr).splitlines())
        secure = ["systemd-analyze", "security", "--offline=true", "--threshold=20", path]
        done = subprocess.run(secure, capture_output=True, text=True)
        level = re.search(r"exposure level.*: ([\d.]+)", done.stdout)
        exposed = [] if done.returncode == 0 else [f"exposure {level and level[1]}, over 2.0"]
        check(f"halfbyte.service: exposure {level and level[1]} of 10", exposed)


def runpod():
    for name in ["template.json", "endpoint.json"]:
        json.loads((DEPLOY / "runpod" / name).read_text())
        check(f"runpod/{name}: JSON", [])


names(manifests())
dockerfile()
unit()
runpod()
sys.exit(1 if failures else 0)
