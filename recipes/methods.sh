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
    of retrain
    once "$DIR/random/mask/mask_result.json" python generate_mask.py --model_path "$ORIGINAL" $FORGET --save_dir "$DIR/random/mask"
    of raw
    of FT --unlearn_epochs 3 --unlearn_lr 0.1 --schedule cosine
    of FT_l1 --unlearn_epochs 3 --unlearn_lr 0.05 --alpha 0.001 --schedule cosine
    of FT_prune_bi --unlearn_epochs 3 --unlearn_lr 0.05 --rate 0.5
    of GA --unlearn_epochs 5 --unlearn_lr 0.001
    of GA_l1 --unlearn_epochs 5 --unlearn_lr 0.001 --alpha 1e-4
    of GA_prune --unlearn_epochs 5 --unlearn_lr 0.001 --rate 0.3
    of GA_prune_bi --unlearn_epochs 5 --unlearn_lr 0.001 --rate 0.3
    of RL --unlearn_epochs 3 --unlearn_lr 0.01 --batch_size 128
    of RL_proximal --unlearn_epochs 3 --unlearn_lr 0.01 --rho 0.5 --batch_size 128
    of wfisher --alpha 5 --samples 256
    of neggrad_plus --unlearn_epochs 3 --unlearn_lr 0.01 --retain_share 0.9 --momentum 0.9 --bn freeze
    of scrub --unlearn_epochs 3 --unlearn_lr 0.005 --msteps 2 --forget_batch_size 64
    of scrub_r --unlearn_epochs 3 --unlearn_lr 0.005 --msteps 2 --forget_batch_size 64
    of bad_teaching --unlearn_epochs 1 --unlearn_lr 1e-4
    of amnesiac --unlearn_epochs 2 --unlearn_lr 3e-4
    of CF_k --unlearn_epochs 3 --unlearn_lr 0.05 --k 4
    of EU_k --unlearn_epochs 3 --unlearn_lr 0.01 --k 4
    of boundary_shrink --unlearn_epochs 5 --unlearn_lr 3e-4
    of boundary_expanding --unlearn_epochs 5 --unlearn_lr 3e-4
    of unsir --unlearn_lr 0.003 --repair_lr 0.001 --retain_part 0.5
    of fisher --alpha 1e-6 --noise_limit 0.02 --fisher_samples 300
    of fisher_new --alpha 3e-7 --fisher_samples 100
    of ssd --alpha 3 --importance_order shuffled
    of lfssd --alpha 1.3 --importance_order shuffled
    each masked RL --model_path "$ORIGINAL" --mask_path "$DIR/random/mask/with_0.5.pt" --unlearn_epochs 3 --unlearn_lr 0.025 --batch_size 128
}

whole_class() {
    REQUEST=class FORGET=$ONE_CLASS
    of retrain
    once "$DIR/class/mask/mask_result.json" python generate_mask.py --model_path "$ORIGINAL" $FORGET --save_dir "$DIR/class/mask"
    of raw
    of FT --unlearn_epochs 3 --unlearn_lr 0.1 --schedule cosine
    of FT_l1 --unlearn_epochs 3 --unlearn_lr 0.05 --alpha 0.002 --schedule cosine
    of FT_prune_bi --unlearn_epochs 3 --unlearn_lr 0.05 --rate 0.8
    of GA --unlearn_epochs 5 --unlearn_lr 2e-4
    of GA_l1 --unlearn_epochs 5 --unlearn_lr 2e-4 --alpha 1e-3
    of GA_prune --unlearn_epochs 5 --unlearn_lr 1e-4 --rate 0.1
    of GA_prune_bi --unlearn_epochs 5 --unlearn_lr 1e-4 --rate 0.1
    of RL --unlearn_epochs 3 --unlearn_lr 0.025 --batch_size 128
    of RL_proximal --unlearn_epochs 3 --unlearn_lr 0.01 --rho 0.5 --batch_size 128
    of wfisher --alpha 20 --samples 256
    of neggrad_plus --unlearn_epochs 3 --unlearn_lr 0.01 --retain_share 0.95 --momentum 0.9 --bn freeze
    of scrub --unlearn_epochs 3 --unlearn_lr 0.005 --msteps 1 --forget_batch_size 64
    of scrub_r --unlearn_epochs 3 --unlearn_lr 0.005 --msteps 1 --forget_batch_size 64
    of bad_teaching --unlearn_epochs 1 --unlearn_lr 3e-4
    of amnesiac --unlearn_epochs 2 --unlearn_lr 3e-4
    of CF_k --unlearn_epochs 3 --unlearn_lr 0.1 --k 4
    of EU_k --unlearn_epochs 3 --unlearn_lr 0.01 --k 2
    of boundary_shrink --unlearn_epochs 5 --unlearn_lr 0.001
    of boundary_expanding --unlearn_epochs 5 --unlearn_lr 0.001
    of unsir --unlearn_lr 0.003 --repair_lr 0.001 --retain_part 0.5
    of fisher --alpha 1e-6 --noise_limit 0.02 --fisher_samples 300
    of fisher_new --alpha 1e-9 --fisher_samples 100
    of ssd --alpha 10 --importance_order shuffled
    of lfssd --alpha 10 --importance_order shuffled
    each masked RL --model_path "$ORIGINAL" --mask_path "$DIR/class/mask/with_0.5.pt" --unlearn_epochs 3 --unlearn_lr 0.025 --batch_size 128
}

once "$DIR/train_result.json" python main_train.py $DATA $TRAINING --save_dir "$DIR"
random_images > "$DIR/random.log" &
whole_class > "$DIR/class.log" &
wait
python report.py "$DIR" --format markdown
