#!/usr/bin/env bash
# SalUn, Retrain, FT, GA, influence unlearning and l1-sparse forget 10 % of 4,500 real images.
#
# Needs no network and no GPU: 5,000 images of Fashion-MNIST are embedded; they are scaled to 16x16 for speed.
# The rates come from a search on another forget set (seed 7). Each command is printed before it runs.
set -euo pipefail
cd "$(dirname "$0")/.."

DIR=${DIR:-runs/demo}
SEED=${SEED:-2}
FORGET="--num_indexes_to_replace 450 --forget_seed $SEED"
ORIGINAL=$DIR/0model_SA_best.pth.tar
FROM="--model_path $ORIGINAL $FORGET --seed $SEED --save_dir $DIR"
# One thread each: the order of a sum, and with it every number, then does not depend on how many cores there are.
export OMP_NUM_THREADS=1
rm -rf "$DIR"

step() {
    printf '\n== %s\n' "$1"
}

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

step "1. Train the original model."
run python main_train.py --dataset fashion_mini --arch resnet20s --input_size 16 --batch_size 64 --schedule cosine --warmup 1 --epochs 12 --lr 0.1 --save_dir "$DIR"

step "2. Retrain without the forget set, as the original was trained: what every method is measured against. Four seeds: how far they are apart is what no method can be asked to beat."
retrain() {
    python main_forget.py --unlearn retrain --model_path "$ORIGINAL" $FORGET --seed "$1" --save_dir "$DIR/retrain$1"
}
for pair in "$SEED $((SEED + 1))" "$((SEED + 2)) $((SEED + 3))"; do
    for seed in $pair; do
        printf '\n$ python main_forget.py --unlearn retrain --model_path %s %s --seed %s --save_dir %s\n' "$ORIGINAL" "$FORGET" "$seed" "$DIR/retrain$seed"
    done
    # Two at a time.
    retrain "${pair%% *}" > "$DIR/retrain.log" 2>&1 &
    retrain "${pair##* }"
    wait $! || { cat "$DIR/retrain.log"; exit 1; }
    cat "$DIR/retrain.log"
done

step "3. SalUn: which weights matter to the forget set, and random labels that change only those."
run python generate_mask.py --model_path "$ORIGINAL" $FORGET --save_dir "$DIR/mask"
run python main_random.py --unlearn salun $FROM --mask_path "$DIR/mask/with_0.5.pt" --unlearn_epochs 5 --unlearn_lr 0.025 --batch_size 128

step "4. The methods to compare with; raw does nothing: the row that shows what a gap of no unlearning is."
run python main_forget.py --unlearn raw $FROM
run python main_forget.py --unlearn FT $FROM --batch_size 64 --unlearn_epochs 3 --unlearn_lr 0.05 --schedule cosine
run python main_forget.py --unlearn GA $FROM --batch_size 64 --unlearn_epochs 5 --unlearn_lr 0.001
run python main_forget.py --unlearn wfisher $FROM --batch_size 64 --alpha 5 --samples 256
run python main_forget.py --unlearn l1-sparse $FROM --batch_size 64 --unlearn_epochs 3 --unlearn_lr 0.05 --alpha 0.001 --schedule cosine

step "5. Audit: attacks, distances and relearning on the saved models, beside Retrain's own."
run python evaluate.py --models "$DIR/*checkpoint.pth.tar" --retrain "$DIR/retrain?/retraincheckpoint.pth.tar" --original "$ORIGINAL" --suite standard --relearn_steps 8 --relearn_seeds 1 --save_dir "$DIR"

step "6. How close did each come?"
run python report.py "$DIR" --html "$DIR/report.html"
printf '\nWith plots and every metric: %s\n' "$DIR/report.html"
