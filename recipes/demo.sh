#!/usr/bin/env bash
# SalUn, Retrain, FT, GA, influence unlearning and l1-sparse forget 10 % of 4,500 real images.
#
# Needs no network and no GPU: 5,000 images of Fashion-MNIST are embedded; they are scaled to 16x16 for speed.
# Under five minutes on two cores without bf16 units. The rates come from a search on another forget set (seed 7).
set -euo pipefail
cd "$(dirname "$0")/.."

DIR=${DIR:-runs/demo}
SEED=${SEED:-2}
OTHER=${OTHER:-3}
FORGET="--num_indexes_to_replace 450 --forget_seed $SEED --seed $SEED --batch_size 64"
RECIPE="--dataset fashion_mini --arch resnet20s --input_size 16 --batch_size 64 --schedule cosine --warmup 1"
ORIGINAL=$DIR/0model_SA_best.pth.tar
rm -rf "$DIR"

# 1. The original model, and those that every method is measured against: retrained without the forget set, as it was. The two differ
#    in their seed only, so that the gap between them is what no method can be asked to beat.
python main_train.py $RECIPE --epochs 12 --lr 0.1 --save_dir $DIR
python main_forget.py --unlearn retrain --model_path $ORIGINAL $FORGET --save_dir $DIR
python main_forget.py --unlearn retrain --model_path $ORIGINAL $FORGET --seed $OTHER --save_dir $DIR/again

# 2. Which weights matter to the forget set.
python generate_mask.py --model_path $ORIGINAL $FORGET --save_dir $DIR/mask

# 3. SalUn: random labels under the mask.
python main_random.py --unlearn RL --mask_path $DIR/mask/with_0.5.pt --model_path $ORIGINAL $FORGET --unlearn_epochs 5 --unlearn_lr 0.025 --batch_size 128 --save_dir $DIR

# 4. The methods to compare with; raw does nothing and shows what a gap of "no unlearning" is.
python main_forget.py --unlearn raw --model_path $ORIGINAL $FORGET --save_dir $DIR
python main_forget.py --unlearn FT --model_path $ORIGINAL $FORGET --unlearn_epochs 3 --unlearn_lr 0.05 --schedule cosine --save_dir $DIR
python main_forget.py --unlearn GA --model_path $ORIGINAL $FORGET --unlearn_epochs 5 --unlearn_lr 0.001 --save_dir $DIR
python main_forget.py --unlearn wfisher --model_path $ORIGINAL $FORGET --alpha 5 --samples 256 --save_dir $DIR
python main_forget.py --unlearn FT_prune --model_path $ORIGINAL $FORGET --unlearn_epochs 3 --unlearn_lr 0.05 --alpha 0.001 --schedule cosine --save_dir $DIR

# 5. Attacks, distances and relearning on the saved models, beside Retrain's own.
python evaluate.py --models "$DIR/*checkpoint.pth.tar" --retrain $DIR/retraincheckpoint.pth.tar $DIR/again/retraincheckpoint.pth.tar --original $ORIGINAL --suite standard --relearn_steps 8 --relearn_seeds 1 --save_dir $DIR

# 6. How close did each come?
echo
python report.py $DIR --html $DIR/report.html
echo
echo "With plots and every metric: $DIR/report.html"
