#!/usr/bin/env bash
# CIFAR-10, ResNet-18, 10 % random images, 182 epochs: SalUn's table 1 and its ten-seed rerun with matched splits.
#
# EXPECTED (UA RA TA MIA, mean±SD of 10 trials; report.py --published KEY has every row and its source):
#   Retrain    5.24±0.69 100.00±0.00 94.26±0.02 12.88±0.09   salun_cifar10_10
#   SalUn      2.85±0.43 99.62±0.12 93.93±0.29 14.39±0.82    salun_cifar10_10
#   Retrain    5.21±0.42 100 94.44±0.15 13.29±0.68           matryoshka_cifar10_10
#   SalUn      0.62±0.14 99.99 94.34 15.00±1.36              matryoshka_cifar10_10
#   l1-sparse  8.46±1.50 94.55 88.63 15.49                   matryoshka_cifar10_10
# Tolerance: a difference within Student's 95 % interval of the seeds on both sides is "reproduced". No SD of the paper is used: those of
# its Retrain are implausibly small, the rerun's stand in.
# TIME: this recipe has not run on a GPU. Minutes of Retrain: 43.29 in the paper, 16.40 in the rerun, on
# hardware that we do not know.
# WHAT MOVES THE NUMBERS: the rates, which the paper does not give for its baselines (the rerun's stand here, so that GA, BE, BS and IU do next
# to nothing); the schedule of the original (SCHEDULE=cosine is the rerun's); the order of RL; the split of the original. Here it is always the
# split that is forgotten from; the paper's table looks as if it was not, which moves gaps by 0.5 to 1 point.
# FAST=1: 8x8 digits, ResNet-20s, one epoch, one seed, on a CPU. It shows that every command runs; its numbers mean nothing.
# EPOCHS=30 instead keeps the data and takes a sixth of the time; the verdicts then say that no number is comparable.
# VALUES: preset matryoshka_cifar10_10 (FT, GA), preset matryoshka_cifar10 (l1-sparse), preset rl_matryoshka_10 (RL), preset matryoshka_10
# (SalUn-soft), preset salun_matryoshka_10 and preset salun_readme (SalUn); typed: the rerun's alpha of IU and rates of BE and BS.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${FAST:-0}" = 1 ]; then
    : "${DIR:=runs/fast_cifar10_random10}" "${DATASET:=digits}" "${ARCH:=resnet20s}" "${FORGET:=130}" "${EPOCHS:=1}" "${SEEDS:=2}"
    : "${LESS:=--unlearn_epochs 1}" "${FEW:=--samples 9}"
fi
SCHEDULE=${SCHEDULE:-multistep}
DIR=${DIR:-runs/cifar10_random10/$SCHEDULE}
DATASET=${DATASET:-cifar10}
ARCH=${ARCH:-resnet18}
FORGET=${FORGET:-4500}
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
each main_forget.py --unlearn FT --preset matryoshka_cifar10_10 $LESS
each main_forget.py --unlearn GA --preset matryoshka_cifar10_10 $LESS
each main_forget.py --unlearn RL --preset rl_matryoshka_10 $LESS
each main_forget.py --unlearn wfisher --alpha 20 $FEW
each main_forget.py --unlearn boundary_expanding --unlearn_lr 1e-6 $LESS
each main_forget.py --unlearn boundary_shrink --unlearn_lr 1e-6 $LESS
each main_forget.py --unlearn FT_prune --preset matryoshka_cifar10 $LESS
each main_forget.py --unlearn RL_proximal --preset matryoshka_10 $LESS
each main_random.py --unlearn salun --run rerun --preset salun_matryoshka_10 --mask_path "$DIR/mask/with_0.5.pt" $LESS
each main_random.py --unlearn salun --run readme --preset salun_readme --mask_path "$DIR/mask/with_0.5.pt" $LESS
python report.py $DIR
python report.py $DIR --published salun_cifar10_10
python report.py $DIR --published matryoshka_cifar10_10
