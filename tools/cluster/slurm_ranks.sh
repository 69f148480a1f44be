#!/usr/bin/env bash
# Any of `segal select`, `run` and `train` on the ranks of a Slurm job, started by torchrun.
#
#   sbatch --nodes=2 --gpus-per-node=4 tools/cluster/slurm_ranks.sh select OPTIONS... --out RUN
#
# RUN is a folder that all nodes share. A rank for each GPU, or one a node where there are none; with
# RANKS=2 so many a node. The same line goes on after a node was lost, also with other numbers.
#SBATCH --job-name=segal
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p) # sed reads to the end, head would not
exec srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${RANKS:-${SLURM_GPUS_ON_NODE:-1}}" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:${PORT:-29500}" \
    -m segal "$@"
