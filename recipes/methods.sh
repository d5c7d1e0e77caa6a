#!/usr/bin/env bash
# Every method on fashion_mini (16x16, ResNet-20s): 10 % random images and one whole class, three seeds each on one forget set.
#
# The values come from a search on other requests (random images of forget seed 7, class 5) against their Retrain.
# The two requests run side by side, one thread each: about an hour on two cores. A second call goes on where the first stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

DIR=${DIR:-runs/methods}
SEEDS=${SEEDS:-2 3 4}
TRAINING="--batch_size 64 --schedule cosine --warmup 1 --epochs 12 --lr 0.1"
DATA="--dataset fashion_mini --arch resnet20s --input_size 16"
RANDOM_10="--num_indexes_to_replace 450 --forget_seed 2"
ONE_CLASS="--class_to_replace 3 --forget_seed 2"
ORIGINAL=$DIR/0model_SA_best.pth.tar
export OMP_NUM_THREADS=1

# once FILE COMMAND...: run the command unless its result is there already.
once() {
    local result=$1
    shift
    [ -f "$result" ] || "$@" --overwrite
}

# each FOLDER METHOD FLAGS...: one method on the current request, every seed.
each() {
    local folder=$1 method=$2 seed out
    shift 2
    for seed in $SEEDS; do
        out=$DIR/$REQUEST/seed$seed/$folder
        once "$out/${method}result.json" python main_forget.py --unlearn "$method" $FORGET --seed "$seed" --save_dir "$out" "$@"
    done
}

# of METHOD FLAGS...: a method that starts from the original.
of() {
    each "" "$1" --model_path "$ORIGINAL" --batch_size 64 "${@:2}"
}

random_images() {
    REQUEST=random FORGET=$RANDOM_10
    each "" retrain $DATA $TRAINING
    once "$DIR/random/mask/mask_result.json" python generate_mask.py --model_path "$ORIGINAL" $FORGET --save_dir "$DIR/random/mask"
}

whole_class() {
    REQUEST=class FORGET=$ONE_CLASS
    each "" retrain $DATA $TRAINING
    once "$DIR/class/mask/mask_result.json" python generate_mask.py --model_path "$ORIGINAL" $FORGET --save_dir "$DIR/class/mask"
}

once "$DIR/train_result.json" python main_train.py $DATA $TRAINING --save_dir "$DIR"
random_images > "$DIR/random.log" &
whole_class > "$DIR/class.log" &
wait
python report.py "$DIR" --format markdown
