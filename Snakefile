# The jobs of a plan, on local cores or on a cluster. `sftrepro rebuild` writes the plan (nbs/18a_rebuild.ipynb) and calls this;
# what is stale was decided there, so a job runs if and only if the plan lists it. Threads, GPUs, megabytes and minutes are
# in the plan as well; Slurm and Kubernetes ask their cluster for them:
#   sftrepro rebuild --profile paper -- --executor slurm --jobs 20
#   sftrepro rebuild --profile paper -- --executor kubernetes --jobs 20 --container-image IMAGE
# The repository and the store (SFTREPRO_STORE) must be at the same path everywhere.
import json
import sys

sys.path.remove(workflow.basedir)  # put there by Snakemake; a random.py beside this file would be taken for Python's

with open("plan.json", encoding="utf-8") as file:  # in the folder that Snakemake works in
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
    resources:
        gpu=lambda wildcards: PLAN["jobs"][wildcards.job]["gpu"],
        mem_mb=lambda wildcards: PLAN["jobs"][wildcards.job]["mem_mb"],
        runtime=lambda wildcards: PLAN["jobs"][wildcards.job]["runtime"],
    params:
        command=PLAN["command"],
        names=lambda wildcards: PLAN["jobs"][wildcards.job]["names"],
        environment=lambda wildcards: PLAN["jobs"][wildcards.job]["environment"],
    shell: "export {params.environment:q} OMP_NUM_THREADS={threads} SFTREPRO_PARENT=$PPID; "
           "exec {params.command} {params.names:q}"
