#!/usr/bin/env bash
# A pool scanned by a Slurm array, each task a share of it, and the selection once all are done.
#
#   scan=$(sbatch --parsable --array=1-16 tools/cluster/slurm_scan.sh scan 16 SCAN OPTIONS...)
#   sbatch --dependency=afterok:"$scan" tools/cluster/slurm_scan.sh select SCAN RUN OPTIONS...
#
# SCAN and RUN are folders on a file system that all nodes share; OPTIONS are those of `segal select`,
# the same in both lines. A task that was preempted is started again by Slurm, and goes on from its
# last whole block of images; `sbatch --array=5` starts one again by hand.
#SBATCH --job-name=segal
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
case $1 in
scan) exec python -m segal scan --shard "$SLURM_ARRAY_TASK_ID/$2" --out "$3" "${@:4}" ;;
select) exec python -m segal select --from-scan "$2" --out "$3" "${@:4}" ;;
*) echo "expected scan or select, got $1" >&2 && exit 2 ;;
esac
