#!/usr/bin/env bash
# SVHN, ResNet-18, 10 % random images, forget sets that vary, the entropy attack: DualOptim's protocol on SVHN.
#
# EXPECTED: no row of four numbers was seen, only the gaps under the entropy attack (report.py --published dualoptim_svhn_10):
# 1.27 (FT), 4.11 (GA), 2.29 (RL), 2.61 (SCRUB), 2.67 (SalUn). SalUn's own table of SVHN was not seen.
# Tolerance, time, what moves the numbers, values: as in recipes/dualoptim.sh, which this runs (preset salun_readme). This recipe has not run on a GPU.
# 6,593 images are a tenth of the 65.9 thousand that are left of SVHN's 73,257 beside validation. SVHN is not augmented.
# FAST=1: 8x8 digits, ResNet-20s, one epoch, one seed, on a CPU. It shows that every command runs; its numbers mean nothing.
set -euo pipefail
cd "$(dirname "$0")"

if [ "${FAST:-0}" != 1 ]; then
    : "${DATASET:=svhn}" "${FORGET:=6593}" "${DIR:=runs/svhn}"
fi
export DATASET=${DATASET:-digits} FORGET=${FORGET:-130} DIR=${DIR:-runs/fast_svhn} PUBLISHED=${PUBLISHED:-dualoptim_svhn_10}
exec bash dualoptim.sh
