# The jobs of a plan, on local cores or on a cluster. `sftrepro rebuild` writes the plan (nbs/17_cli.ipynb) and calls this;
# what is stale was decided there, so a job runs if and only if the plan lists it.
import json

with open(config["plan"]) as file:
    PLAN = json.load(file)

wildcard_constraints:
    job=".+"

rule all:
    input: [f"stamps/{name}" for name in PLAN["jobs"]]
    default_target: True

rule job:
    input: lambda wildcards: [f"stamps/{need}" for need in PLAN["jobs"][wildcards.job]["needs"]]
    output: touch("stamps/{job}")
    threads: lambda wildcards: PLAN["jobs"][wildcards.job]["threads"]
    resources: gpu=lambda wildcards: PLAN["jobs"][wildcards.job]["gpu"]
    params: command=PLAN["command"]
    shell: "export OMP_NUM_THREADS={threads} SFTREPRO_PARENT=$PPID; exec {params.command} {wildcards.job:q}"
