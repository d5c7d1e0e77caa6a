#!/usr/bin/env bash
# Every method on fashion_mini: 10 % random images and one whole class, three seeds each on one forget set.
#
# The values come from a search on other requests (forget seed 7, class 5). A second call goes on where the first stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

DIR=${DIR:-runs/methods}
SEEDS=${SEEDS:-2 3 4}
RECIPE="--dataset fashion_mini --arch resnet20s --input_size 16 --batch_size 64 --schedule cosine --warmup 1 --epochs 12 --lr 0.1"
RANDOM_10="--num_indexes_to_replace 450 --forget_seed 2"
ONE_CLASS="--class_to_replace 3"
ORIGINAL=$DIR/0model_SA_best.pth.tar

done_already() { [ -f "$1" ]; }

done_already "$DIR/train_result.json" || python main_train.py $RECIPE --save_dir "$DIR" --overwrite
