#!/usr/bin/env bash
# One run on two machines with four GPUs each, on Slurm: sbatch recipes/two_nodes.sh
# The batch size is that of all GPUs together. A job that is preempted, or ends at its time limit, is queued again and goes on from the
# last finished epoch of the step it was at; what is finished returns at once.
#SBATCH --job-name=unlearn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

DIR=${DIR:-runs/two_nodes}
DATA=${DATA:-"--dataset cifar10 --data ../data"}
TRAIN=${TRAIN:-"--arch resnet50 --batch_size 1024 --lr 0.4 --warmup 5 --epochs 182"}
FORGET=${FORGET:-"--num_indexes_to_replace 4500 --batch_size 1024"}
PROCESSES=${PROCESSES:-4}   # on each machine: one for each of its GPUs
ORIGINAL=$DIR/0model_SA_best.pth.tar
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# step COMMAND...: the command on all machines, going on where an earlier start of this job left it.
step() {
    srun torchrun --nnodes="$SLURM_NNODES" --nproc_per_node="$PROCESSES" \
        --rdzv_backend=c10d --rdzv_endpoint="$FIRST:${PORT:-29500}" --rdzv_id="$SLURM_JOB_ID" "$@" --resume
}

step main_train.py $DATA $TRAIN --save_dir $DIR
step main_forget.py --unlearn retrain --model_path $ORIGINAL $TRAIN $FORGET --save_dir $DIR
step generate_mask.py --model_path $ORIGINAL $FORGET --save_dir $DIR/mask
step main_random.py --unlearn RL --unlearn_lr 0.05 --model_path $ORIGINAL --mask_path $DIR/mask/with_0.5.pt $FORGET --save_dir $DIR
python report.py $DIR
