#!/bin/sh
# The subjects of DreamBench as an array of Slurm: each of 4 tasks takes every fourth subject, on a GPU of its own.
#
#   sbatch configs/cluster/slurm_array.sh
#
# Slurm sends SIGTERM some time before it kills a task. preftune then saves a checkpoint and ends with code 75, and the task asks to be
# queued again; it goes on where it was. Subjects that fail for another reason are named in the log, and keep no other back.
#SBATCH --job-name=preftune
#SBATCH --array=0-3
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue

srun preftune train configs/image/dreambench.toml --all-subjects \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --quiet
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
