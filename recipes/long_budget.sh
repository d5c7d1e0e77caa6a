#!/usr/bin/env bash
# The long budget: CIFAR-10, ResNet-18, 10 % random images, 50 epochs of unlearning with a cosine, CoUn's protocol.
#
# EXPECTED (UA RA TA MIA, 10 trials; report.py --published KEY has every row and its source):
#   Retrain  4.81 100 94.67 11.02   coun_cifar10_10
# and the Avg. Gaps 0.65 (FT), 0.38 (l1-sparse), 0.59 (SalUn). No SDs are known to us.
# Tolerance: a difference within Student's 95 % interval of your seeds, the published trials taken to scatter as yours do, is "reproduced".
# TIME: this recipe has not run on a GPU; the paper's minutes are not known to us. Fifty epochs are more than a quarter
# of Retrain's 182.
# WHAT MOVES THE NUMBERS: the rate (CoUn's go from 0.01 to 0.1 and are chosen by the smallest gap; here 0.01, and SalUn's README's 0.013: our
# choice), the l1 weight, and whether 45,000 or 50,000 images are trained on, which we do not know of CoUn.
# FAST=1: 8x8 digits, ResNet-20s, one epoch, one seed, on a CPU. It shows that every command runs; its numbers mean nothing.
# EPOCHS=30 instead keeps the data and takes a sixth of the time of training; the verdicts then say that no number is comparable.
# 50 %: FORGET=22500 PUBLISHED=coun_cifar10_50 DIR=runs/long_budget_50 bash recipes/long_budget.sh
# VALUES: preset long_budget (FT, l1-sparse, NegGrad+).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${FAST:-0}" = 1 ]; then
    : "${DIR:=runs/fast_long_budget}" "${DATASET:=digits}" "${ARCH:=resnet20s}" "${FORGET:=130}" "${EPOCHS:=1}" "${SEEDS:=2}"
    : "${LESS:=--unlearn_epochs 1}"
fi
DIR=${DIR:-runs/long_budget}
DATASET=${DATASET:-cifar10}
ARCH=${ARCH:-resnet18}
FORGET=${FORGET:-4500}
EPOCHS=${EPOCHS:-182}
SEEDS=${SEEDS:-2 3 4 5 6}
PUBLISHED=${PUBLISHED:-coun_cifar10_10}
LESS=${LESS:-}
ORIGINAL=$DIR/0model_SA_best.pth.tar
REQUEST="--model_path $ORIGINAL --num_indexes_to_replace $FORGET --forget_seed 2 --resume"

# each SCRIPT FLAGS...: every seed into a folder of its own; what is finished returns at once.
each() {
    for seed in $SEEDS; do
        python "$1" $REQUEST --seed "$seed" --save_dir "$DIR/seed$seed" "${@:2}"
    done
}

python main_train.py --dataset $DATASET --arch $ARCH --epochs $EPOCHS --lr 0.1 --save_dir $DIR --resume
each main_forget.py --unlearn retrain
python generate_mask.py $REQUEST --save_dir $DIR/mask
each main_forget.py --unlearn raw
each main_forget.py --unlearn FT --preset long_budget $LESS
each main_forget.py --unlearn FT_prune --preset long_budget $LESS
each main_forget.py --unlearn neggrad_plus --preset long_budget $LESS
each main_random.py --unlearn salun --unlearn_epochs 50 --unlearn_lr 0.013 --schedule cosine --final_lr 1e-4 --mask_path "$DIR/mask/with_0.5.pt" $LESS
python report.py $DIR
python report.py $DIR --published $PUBLISHED
