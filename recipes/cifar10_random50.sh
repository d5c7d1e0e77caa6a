#!/usr/bin/env bash
# CIFAR-10, ResNet-18, 50 % random images, 182 epochs: SalUn's table 1 and its ten-seed rerun with matched splits.
#
# EXPECTED (UA RA TA MIA, mean±SD of 10 trials; report.py --published KEY has every row and its source):
#   Retrain    7.91±0.11 100.00±0.00 91.72±0.31 19.29±0.06   salun_cifar10_50
#   SalUn      7.75±1.04 94.28±1.01 89.29±0.72 16.99±0.71    salun_cifar10_50
#   Retrain    7.65±0.19 100 92.16±0.29 19.68±1.00           matryoshka_cifar10_50
#   SalUn      0.62 99.86 93.59 10.00                        matryoshka_cifar10_50
#   l1-sparse  7.57 94.99 87.91 15.13                        matryoshka_cifar10_50
# Tolerance: a difference within Student's 95 % interval of the seeds on both sides is "reproduced". No SD of the paper is used: those of
# its Retrain are implausibly small and those of its l1-sparse wrong; the rerun's stand in.
# TIME: this recipe has not run on a GPU. Minutes of Retrain: 23.90 in the paper, 9.11 in the rerun, on
# hardware that we do not know.
# WHAT MOVES THE NUMBERS: the rates, which the paper does not give for its baselines (the rerun's stand here); the mask's density; the schedule of
# the original (SCHEDULE=cosine is the rerun's); the order of RL; the split of the original, which here is always the one forgotten from.
# FAST=1: 8x8 digits, ResNet-20s, one epoch, one seed, on a CPU. It shows that every command runs; its numbers mean nothing.
# EPOCHS=30 instead keeps the data and takes a sixth of the time; the verdicts then say that no number is comparable.
# VALUES: preset matryoshka_cifar10_50 (FT, GA), preset matryoshka_cifar10 (l1-sparse), preset rl_matryoshka_50 (RL), preset matryoshka_50
# (SalUn-soft), preset salun_matryoshka_50 with a mask of 0.9 and preset salun_scissorhands_50 with one of 0.2 (SalUn); typed: the rerun's
# alpha of IU; rates of BE and BS as for 10 %.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${FAST:-0}" = 1 ]; then
    : "${DIR:=runs/fast_cifar10_random50}" "${DATASET:=digits}" "${ARCH:=resnet20s}" "${FORGET:=640}" "${EPOCHS:=1}" "${SEEDS:=2}"
    : "${LESS:=--unlearn_epochs 1}" "${FEW:=--samples 9}"
fi
SCHEDULE=${SCHEDULE:-multistep}
DIR=${DIR:-runs/cifar10_random50/$SCHEDULE}
DATASET=${DATASET:-cifar10}
ARCH=${ARCH:-resnet18}
FORGET=${FORGET:-22500}
EPOCHS=${EPOCHS:-182}
SEEDS=${SEEDS:-2 3 4 5 6}
LESS=${LESS:-}
FEW=${FEW:-}
ORIGINAL=$DIR/0model_SA_best.pth.tar
REQUEST="--model_path $ORIGINAL --num_indexes_to_replace $FORGET --forget_seed 2 --resume"

# each SCRIPT FLAGS...: every seed into a folder of its own; what is finished returns at once.
each() {
    for seed in $SEEDS; do
        python "$1" $REQUEST --seed "$seed" --save_dir "$DIR/seed$seed" "${@:2}"
    done
}

python main_train.py --dataset $DATASET --arch $ARCH --epochs $EPOCHS --lr 0.1 --schedule $SCHEDULE --save_dir $DIR --resume
each main_forget.py --unlearn retrain
python generate_mask.py $REQUEST --save_dir $DIR/mask
each main_forget.py --unlearn raw
each main_forget.py --unlearn FT --preset matryoshka_cifar10_50 $LESS
each main_forget.py --unlearn GA --preset matryoshka_cifar10_50 $LESS
each main_forget.py --unlearn RL --preset rl_matryoshka_50 $LESS
each main_forget.py --unlearn wfisher --alpha 20 $FEW
each main_forget.py --unlearn boundary_expanding --unlearn_lr 1e-6 $LESS
each main_forget.py --unlearn boundary_shrink --unlearn_lr 1e-6 $LESS
each main_forget.py --unlearn FT_prune --preset matryoshka_cifar10 $LESS
each main_forget.py --unlearn RL_proximal --preset matryoshka_50 $LESS
each main_random.py --unlearn salun --run rerun --preset salun_matryoshka_50 --mask_path "$DIR/mask/with_0.9.pt" $LESS
each main_random.py --unlearn salun --run scissorhands --preset salun_scissorhands_50 --mask_path "$DIR/mask/with_0.2.pt" $LESS
python report.py $DIR
python report.py $DIR --published salun_cifar10_50
python report.py $DIR --published matryoshka_cifar10_50
